"""Drawn photographs of buildings, and a ground truth as Oxford5k has it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

BUILDINGS = {
    "abbey": ("arch", 2, 3),
    "bank": ("bar", 2, 5),
    "castle": ("cross", 3, 3),
    "dome": ("disc", 4, 4),
    "embassy": ("bar", 5, 2),
    "forum": ("arch", 4, 2),
    "gate": ("cross", 2, 2),
    "hall": ("disc", 2, 4),
}
"""Shape of the windows, how many stand in a column and in a row."""
KINDS = {"good": 4, "ok": 2, "junk": 1}
WIDTH, HEIGHT = 96, 72

Box = tuple[float, float, float, float]


def draw_landmarks(root: Path, *, others: int = 24, seed: int = 0) -> Path:
    """Write `jpg/`, seven images of each building and `others` of no known one, and `gt_files/`.

    Two queries a building: its first and its third image, which count as good.
    """
    (root / "jpg").mkdir(parents=True)
    (root / "gt_files").mkdir()
    generator = np.random.default_rng(seed)
    for building in BUILDINGS:
        names: dict[str, list[str]] = {kind: [] for kind in KINDS}
        boxes: list[Box] = []
        for kind, number in KINDS.items():
            for _ in range(number):
                names[kind].append(f"{building}_{len(boxes):06d}")
                boxes.append(_photograph(root, names[kind][-1], building, kind, generator))
        for query, shown in ((1, 0), (2, 2)):
            lines = {
                kind: "".join(f"{name}\n" for name in listed) for kind, listed in names.items()
            }
            box = " ".join(f"{side:.1f}" for side in boxes[shown])
            lines["query"] = f"oxc1_{names['good'][shown]} {box}\n"
            for kind, text in lines.items():
                (root / f"gt_files/{building}_{query}_{kind}.txt").write_text(text)
    for number in range(others):
        _photograph(root, f"street_{number:06d}", f"street {number}", "good", generator)
    return root


def _photograph(
    root: Path, name: str, building: str, kind: str, generator: np.random.Generator
) -> Box:
    """Write one image of a building, more or less of it hidden, and return where it is."""
    sky, wall = (int(n) for n in generator.integers((60, 150), (120, 230)))
    picture = Image.new("L", (WIDTH, HEIGHT), sky)
    brush = ImageDraw.Draw(picture)
    side = int(generator.integers(56, 66))
    left, top = int(generator.integers(2, WIDTH - side - 2)), int(HEIGHT - side - 4)
    _facade(brush, building, (left, top), side, wall=wall, ink=wall - 100)
    hidden = {"good": 0.0, "ok": 0.45, "junk": 0.85}[kind]
    brush.rectangle((left - 3, top - 3, left + hidden * side - 1, HEIGHT), fill=(sky + wall) // 2)
    tilted = picture.rotate(generator.uniform(-6, 6), Image.Resampling.BILINEAR, fillcolor=sky)
    noisy = np.asarray(tilted) + generator.normal(0, 25, (HEIGHT, WIDTH))
    grey = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    grey.convert("RGB").save(root / f"jpg/{name}.jpg", quality=92)
    return left, top, left + side, top + side


def _facade(
    brush: ImageDraw.ImageDraw,
    building: str,
    corner: tuple[int, int],
    side: int,
    *,
    wall: int,
    ink: int,
) -> None:
    """Draw a wall with the windows of a building; of no known one, without any."""
    left, top = corner
    brush.rectangle((left, top, left + side, top + side), fill=wall)
    shape, rows, columns = BUILDINGS.get(building, ("none", 0, 0))
    for window in range(rows * columns):
        row, column = divmod(window, columns)
        x, right = (left + (column + share) * side / columns for share in (0.2, 0.8))
        y, bottom = (top + (row + share) * side / rows for share in (0.2, 0.8))
        match shape:
            case "bar":
                brush.rectangle((x, y, right, bottom), fill=ink)
            case "disc":
                brush.ellipse((x, y, right, bottom), fill=ink)
            case "arch":
                brush.polygon([(x, bottom), (right, bottom), ((x + right) / 2, y)], ink)
            case _:
                brush.line((x, y, right, bottom), fill=ink, width=2)
                brush.line((x, bottom, right, y), fill=ink, width=2)
