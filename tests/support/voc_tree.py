"""A small Pascal VOC: drawn pictures of several objects in the layout of the real one."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deepcluster_core.evaluation.voc.dataset import PALETTE, VOID

CLASSES = ("bar", "cross", "disc", "square")
WIDTH, HEIGHT = 80, 60
SIZES = {"train": 60, "val": 60, "test": 120}
SIZES_2012 = {"train": 60, "val": 60}


@dataclass(frozen=True)
class Drawn:
    """One object."""

    name: str
    box: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels from 0; right and bottom are outside the object."""
    difficult: bool


def write_voc(
    root: Path, *, sizes: Mapping[str, int] = SIZES, seed: int = 0
) -> dict[str, list[Drawn]]:
    """Write `root/VOCdevkit/VOC2007`; return the objects of each picture by its name.

    Pictures are 80 x 60 pixels, with one or two objects of different classes; one object in ten is
    faint and difficult. The same seed gives the same bytes; 240 pictures take 0.3 s.
    """
    folder = root / "VOCdevkit" / "VOC2007"
    drawn: dict[str, list[Drawn]] = {}
    for name, picture in _write_year(folder, sizes, seed, stroke=3):
        drawn[name] = picture.objects
    return drawn


def write_voc2012(
    root: Path, *, sizes: Mapping[str, int] = SIZES_2012, seed: int = 0
) -> dict[str, NDArray[np.uint8]]:
    """Write `root/VOCdevkit/VOC2012`, with masks; return the mask of each picture by its name.

    The pictures are those of `write_voc`, but with lines twice as thick. Classes have the numbers 1
    to 4 in the order of `CLASSES`, which class_names.txt lists; difficult objects and a border of
    one pixel around each object are void.
    """
    folder = root / "VOCdevkit" / "VOC2012"
    masks: dict[str, NDArray[np.uint8]] = {}
    for part in ("SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for name, picture in _write_year(folder, sizes, seed, stroke=6):
        masks[name] = picture.mask_HW
        mask = Image.fromarray(picture.mask_HW)
        mask.putpalette(PALETTE.tobytes())
        mask.save(folder / "SegmentationClass" / f"{name}.png")
    # The lists of the subsets serve both tasks; those of single classes have `_` in their names.
    for path in sorted((folder / "ImageSets/Main").glob("*.txt")):
        if "_" not in path.name:
            shutil.copy(path, folder / "ImageSets/Segmentation")
    lines = ["background", *CLASSES, ""]
    (folder / "class_names.txt").write_text("\n".join(lines))
    return masks


@dataclass(frozen=True)
class _Picture:
    """One picture and its objects."""

    image: Image.Image
    objects: list[Drawn]
    mask_HW: NDArray[np.uint8]


def _write_year(
    folder: Path, sizes: Mapping[str, int], seed: int, *, stroke: int
) -> Iterator[tuple[str, _Picture]]:
    """Write pictures and annotations, and at the end the lists; yield name and picture."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[Drawn]] = {}
    subsets: dict[str, list[str]] = {}
    for subset, size in sizes.items():
        subsets[subset] = [f"{len(drawn) + number:06d}" for number in range(size)]
        for name in subsets[subset]:
            picture = _draw(generator, stroke)
            drawn[name] = picture.objects
            picture.image.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            text = annotation(name, picture.objects)
            (folder / "Annotations" / f"{name}.xml").write_text(text)
            yield name, picture
    subsets["trainval"] = subsets.get("train", []) + subsets.get("val", [])
    for subset, names in subsets.items():
        of_subset = {name: drawn[name] for name in names}
        write_lists(folder, subset, of_subset)


def write_lists(folder: Path, subset: str, drawn: Mapping[str, Sequence[Drawn]]) -> None:
    """Write the plain list of a subset, and that of each class in VOC's columns."""
    lists = folder / "ImageSets/Main"
    names = "".join(f"{name}\n" for name in drawn)
    (lists / f"{subset}.txt").write_text(names)
    for class_name in CLASSES:
        lines: list[str] = []
        for name, objects in drawn.items():
            mark = mark_of(class_name, objects)
            lines.append(f"{name} {mark:2d}\n")
        (lists / f"{class_name}_{subset}.txt").write_text("".join(lines))


def mark_of(class_name: str, objects: Sequence[Drawn]) -> int:
    """Return 1, 0 or -1, as VOC marks a picture with these objects."""
    of_class = [found for found in objects if found.name == class_name]
    if not of_class:
        return -1
    # A picture whose objects of the class are all difficult counts neither way.
    if all(found.difficult for found in of_class):
        return 0
    return 1


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
        # The box counts from 0 and excludes right and bottom, so these two stay as they are.
        sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        for side, pixel in sides.items():
            ElementTree.SubElement(box, side).text = str(pixel)
    return ElementTree.tostring(root, encoding="unicode")


def _draw(generator: np.random.Generator, stroke: int) -> _Picture:
    picture = Image.new("RGB", (WIDTH, HEIGHT), (40, 40, 40))
    brush = ImageDraw.Draw(picture)
    objects: list[Drawn] = []
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    shuffled = generator.permutation(CLASSES).tolist()
    names: list[str] = shuffled[: generator.integers(1, 3)]
    for place, name in enumerate(names):  # one in the left half, one in the right
        half = int(generator.integers(9, 14))
        x = int(generator.integers(half, WIDTH // 2 - half)) + place * WIDTH // 2
        y = int(generator.integers(half, HEIGHT - half))
        difficult = bool(generator.random() < 0.1)
        # A difficult object is a grey that hardly differs from the background. It is drawn from the
        # generator in any case, so that all other draws stay as they are.
        grey = int(generator.integers(60, 70))
        shade, number = (grey, grey, grey), VOID
        if not difficult:
            shade = tuple(generator.integers(150, 255, size=3).tolist())
            number = 1 + CLASSES.index(name)
        shape = _Shape(name, (x, y), half, stroke)
        objects.append(Drawn(name, shape.box, difficult))
        shape.draw(brush, shade)
        _mark(mask_HW, shape, number)
    noise = generator.normal(0, 12, size=(HEIGHT, WIDTH, 3))
    noisy = np.clip(np.asarray(picture) + noise, 0, 255)
    return _Picture(Image.fromarray(noisy.astype(np.uint8)), objects, mask_HW)


@dataclass(frozen=True)
class _Shape:
    """The outline of an object."""

    name: str
    center: tuple[int, int]
    half: int
    """Pixels from the centre to the sides; the width of a bar depends on `stroke` instead."""
    stroke: int
    """Thickness of lines, pixels."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box, with sides as in `Drawn`."""
        left, top, right, bottom = self._sides
        return left, top, right + 1, bottom + 1

    def draw(self, brush: ImageDraw.ImageDraw, ink: int | tuple[int, ...]) -> None:
        """Draw it in one colour."""
        left, top, right, bottom = self._sides
        match self.name:
            case "disc":
                brush.ellipse((left, top, right, bottom), fill=ink)
            case "square":
                brush.rectangle((left, top, right, bottom), outline=ink, width=self.stroke)
            case "bar":
                brush.rectangle((left, top, right, bottom), fill=ink)
            case _:
                brush.line((left, top, right, bottom), fill=ink, width=self.stroke)
                brush.line((left, bottom, right, top), fill=ink, width=self.stroke)

    @property
    def _sides(self) -> tuple[int, int, int, int]:
        x, y = self.center
        across = self.stroke if self.name == "bar" else self.half
        return x - across, y - self.half, x + across, y + self.half


def _mark(mask_HW: NDArray[np.uint8], shape: _Shape, number: int) -> None:
    """Put an object into a mask, with a border of void around it."""
    stencil = Image.new("L", (WIDTH, HEIGHT))
    shape.draw(ImageDraw.Draw(stencil), 1)
    around_HW = np.asarray(stencil.filter(ImageFilter.MaxFilter(3))) > 0
    mask_HW[around_HW] = VOID
    mask_HW[np.asarray(stencil) > 0] = number
