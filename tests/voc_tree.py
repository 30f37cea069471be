"""A small Pascal VOC: drawn pictures of several objects in the layout of the real one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("bar", "cross", "disc", "square")
WIDTH, HEIGHT = 80, 60
SIZES = {"train": 60, "val": 60, "test": 120}


@dataclass(frozen=True)
class Drawn:
    """One object."""

    name: str
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels from 0; right and bottom are outside."""
    difficult: bool


def write_voc(
    root: Path, *, sizes: Mapping[str, int] = SIZES, seed: int = 0
) -> dict[str, list[Drawn]]:
    """Write `root/VOCdevkit/VOC2007`; return the objects of each picture by its name.

    Pictures are 80 x 60 pixels, with one or two objects of different classes; one object in ten is
    faint and difficult. The same seed gives the same bytes; 240 pictures take 0.3 s.
    """
    folder = root / "VOCdevkit" / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[Drawn]] = {}
    subsets: dict[str, list[str]] = {}
    for subset, size in sizes.items():
        subsets[subset] = [f"{len(drawn) + number:06d}" for number in range(size)]
        for name in subsets[subset]:
            picture, drawn[name] = _draw(generator)
            picture.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            (folder / "Annotations" / f"{name}.xml").write_text(annotation(name, drawn[name]))
    subsets["trainval"] = subsets.get("train", []) + subsets.get("val", [])
    for subset, names in subsets.items():
        write_lists(folder, subset, {name: drawn[name] for name in names})
    return drawn


def write_lists(folder: Path, subset: str, drawn: Mapping[str, Sequence[Drawn]]) -> None:
    """Write the list of each class for a subset, in VOC's columns."""
    for class_name in CLASSES:
        lines = [f"{name} {mark_of(class_name, objects):2d}\n" for name, objects in drawn.items()]
        (folder / "ImageSets/Main" / f"{class_name}_{subset}.txt").write_text("".join(lines))


def mark_of(class_name: str, objects: Sequence[Drawn]) -> int:
    """Return 1, 0 or -1, as VOC marks a picture with these objects."""
    of_class = [found for found in objects if found.name == class_name]
    if not of_class:
        return -1
    return 0 if all(found.difficult for found in of_class) else 1


def annotation(name: str, objects: Sequence[Drawn]) -> str:
    """Return the XML of a picture, which counts pixels from 1 and includes the last one."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{name}.jpg"
    for found in objects:
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = found.name
        ElementTree.SubElement(element, "difficult").text = str(int(found.difficult))
        box = ElementTree.SubElement(element, "bndbox")
        left, top, right, bottom = found.box
        sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        for side, pixel in sides.items():
            ElementTree.SubElement(box, side).text = str(pixel)
    return ElementTree.tostring(root, encoding="unicode")


def _draw(generator: np.random.Generator) -> tuple[Image.Image, list[Drawn]]:
    picture = Image.new("RGB", (WIDTH, HEIGHT), (40, 40, 40))
    brush, objects = ImageDraw.Draw(picture), list[Drawn]()
    names = generator.permutation(CLASSES)[: generator.integers(1, 3)]
    for place, name in enumerate(names):  # one in the left half, one in the right
        half = int(generator.integers(9, 14))
        x = int(generator.integers(half, WIDTH // 2 - half)) + place * WIDTH // 2
        y = int(generator.integers(half, HEIGHT - half))
        difficult = bool(generator.random() < 0.1)
        shade = tuple(int(n) for n in generator.integers(60, 70) + np.zeros(3, int))
        if not difficult:
            shade = tuple(int(n) for n in generator.integers(150, 255, size=3))
        objects.append(Drawn(str(name), _shape(brush, str(name), (x, y), half, shade), difficult))
    noise = generator.normal(0, 12, size=(HEIGHT, WIDTH, 3))
    noisy = np.clip(np.asarray(picture) + noise, 0, 255)
    return Image.fromarray(noisy.astype(np.uint8)), objects


def _shape(
    brush: ImageDraw.ImageDraw,
    name: str,
    center: tuple[int, int],
    half: int,
    shade: tuple[int, ...],
) -> tuple[int, int, int, int]:
    """Draw a shape and return its box."""
    x, y = center
    left, top, right, bottom = x - half, y - half, x + half, y + half
    match name:
        case "disc":
            brush.ellipse((left, top, right, bottom), fill=shade)
        case "square":
            brush.rectangle((left, top, right, bottom), outline=shade, width=3)
        case "bar":
            left, right = x - 3, x + 3
            brush.rectangle((left, top, right, bottom), fill=shade)
        case _:
            brush.line((left, top, right, bottom), fill=shade, width=3)
            brush.line((left, bottom, right, top), fill=shade, width=3)
    return left, top, right + 1, bottom + 1
