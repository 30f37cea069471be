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
"""Shape of the windows, and how many there are in a column and in a row."""
KINDS = {"good": 4, "ok": 2, "junk": 1}
"""Number of images of each building, by Oxford5k's words for how much of it is visible."""
WIDTH, HEIGHT = 96, 72

Box = tuple[float, float, float, float]


def draw_landmarks(root: Path, *, others: int = 24, seed: int = 0) -> Path:
    """Write `jpg/`, with images of buildings, and `gt_files/`, with the ground truth.

    There are seven images of each building, and `others` of unknown buildings. Each building has
    two queries: its first and its third image, which count as good.
    """
    (root / "jpg").mkdir(parents=True)
    (root / "gt_files").mkdir()
    generator = np.random.default_rng(seed)
    for building in BUILDINGS:
        names: dict[str, list[str]] = {kind: [] for kind in KINDS}
        boxes: list[Box] = []
        for kind, number in KINDS.items():
            for _ in range(number):
                name = f"{building}_{len(boxes):06d}"
                names[kind].append(name)
                boxes.append(_photograph(root, name, building, kind, generator))
        # The good images come first, so that their boxes have equal positions.
        for query, position in ((1, 0), (2, 2)):
            start = f"gt_files/{building}_{query}"
            for kind, listed in names.items():
                (root / f"{start}_{kind}.txt").write_text("\n".join([*listed, ""]))
            corners = [f"{corner:.1f}" for corner in boxes[position]]
            line = " ".join([f"oxc1_{names['good'][position]}", *corners])
            (root / f"{start}_query.txt").write_text(f"{line}\n")
    for number in range(others):
        _photograph(root, f"street_{number:06d}", f"street {number}", "good", generator)
    return root


def _photograph(
    root: Path, name: str, building: str, kind: str, generator: np.random.Generator
) -> Box:
    """Write one image of a building, part of which may be hidden; return where the building is."""
    sky, wall = generator.integers((60, 150), (120, 230)).tolist()
    picture = Image.new("L", (WIDTH, HEIGHT), sky)
    brush = ImageDraw.Draw(picture)
    side = int(generator.integers(56, 66))
    left, top = int(generator.integers(2, WIDTH - side - 2)), int(HEIGHT - side - 4)
    _facade(brush, building, (left, top), side, wall=wall, ink=wall - 100)
    # Something in front of the building hides a fraction of it, from the left.
    hidden = {"good": 0.0, "ok": 0.45, "junk": 0.85}[kind]
    right = left + hidden * side - 1
    brush.rectangle((left - 3, top - 3, right, HEIGHT), fill=(sky + wall) // 2)
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
    """Draw a wall with the windows of a building; an unknown building has no windows."""
    left, top = corner
    brush.rectangle((left, top, left + side, top + side), fill=wall)
    shape, rows, columns = BUILDINGS.get(building, ("none", 0, 0))
    for window in range(rows * columns):
        row, column = divmod(window, columns)
        # A window fills the middle of its field, from a fifth to four fifths.
        x = left + (column + 0.2) * side / columns
        right = left + (column + 0.8) * side / columns
        y = top + (row + 0.2) * side / rows
        bottom = top + (row + 0.8) * side / rows
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
