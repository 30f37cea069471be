"""Pascal VOC as its organisers ship it: class lists, annotations and pictures of one year.

    VOCdevkit/VOC2007/ImageSets/Main/<class>_<subset>.txt   lines `000012  1`
    VOCdevkit/VOC2007/Annotations/000012.xml
    VOCdevkit/VOC2007/JPEGImages/000012.jpg

Suffixes: N images of a subset, C classes.
"""

import codecs
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.decode import Pixels, UnreadableImageError, decode
from deepcluster_core.data.sources.base import fingerprint_files
from deepcluster_core.errors import SourceError

HOME = "host.robots.ox.ac.uk/pascal/VOC"
TRAINVAL = {2007: "VOCtrainval_06-Nov-2007.tar", 2012: "VOCtrainval_11-May-2012.tar"}
TEST = {2007: "VOCtest_06-Nov-2007.tar"}  # of other years the truth was not published
SHOWN = 5  # names in a message

PRESENT, DIFFICULT, ABSENT = 1, 0, -1
"""Marks of an image in the list of a class. Difficult: all its objects of the class are."""

_MARKS = {"1": PRESENT, "+1": PRESENT, "0": DIFFICULT, "-1": ABSENT}
_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(frozen=True)
class VocObject:
    """One object of a picture."""

    name: str
    """Its class."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels from 0; right and bottom are outside. The files count from
    1 and include the last pixel."""
    difficult: bool
    """Whether it counts neither for nor against a detector."""


@dataclass(frozen=True)
class Marks:
    """Which images of a subset show which classes."""

    names: tuple[str, ...]
    """N, sorted."""
    mark_NC: NDArray[np.int8]
    """PRESENT, DIFFICULT or ABSENT."""


class Voc:
    """One year of Pascal VOC, or a tree of somebody's in the same layout."""

    def __init__(self, data: Path, year: int = 2007) -> None:
        """Find the year's folder.

        Args:
            data: the folder that holds VOCdevkit, or VOCdevkit, or VOC<year> in it.
            year: of the challenge.

        Raises:
            SourceError: none of these is there.
        """
        self.year = year
        self.folder = _find(data, year)

    def classes(self, *subsets: str) -> tuple[str, ...]:
        """Return the names of the classes, sorted: those that have a list in every subset.

        Raises:
            SourceError: a subset has no lists, or subsets differ.
        """
        found = {subset: self._classes_of(subset) for subset in subsets}
        first, *others = subsets
        for other in others:
            if lacking := sorted(found[first] ^ found[other]):
                raise SourceError(
                    f"{self._lists}: the subsets {first} and {other} have lists of other classes: "
                    f"{_some(lacking)} are in one of them alone.\n"
                    f"  Fix: give each class a list for both, <class>_{first}.txt and "
                    f"<class>_{other}.txt."
                )
        return tuple(sorted(found[first]))

    def marks(self, subset: str, classes: Sequence[str]) -> Marks:
        """Return the images of a subset, joined by name, and their marks.

        Args:
            subset: train, val, trainval or test.
            classes: C, in the order of the columns.

        Raises:
            SourceError: a list is missing or damaged, or lists of classes differ in their images.
        """
        paths = [self._list_of(name, subset) for name in classes]
        columns = [_read_list(path) for path in paths]
        for path, column in zip(paths, columns, strict=True):
            if lacking := sorted(column.keys() ^ columns[0].keys()):
                raise SourceError(
                    f"{path}: lists other images than {paths[0].name}: {_some(lacking)} are in one "
                    f"of them alone.\n"
                    f"  Fix: {self._again(subset)}"
                )
        names = tuple(sorted(columns[0]))
        mark_NC = np.array([[column[name] for column in columns] for name in names], np.int8)
        return Marks(names, mark_NC)

    def objects(self, name: str) -> tuple[VocObject, ...]:
        """Return the objects of a picture, in the order of its annotation.

        Raises:
            SourceError: the annotation is missing or damaged.
        """
        path = self.folder / "Annotations" / f"{name}.xml"
        try:
            return tuple(_object(found) for found in _parse(path.read_bytes()).findall("object"))
        except OSError as error:
            cause = error.strerror or str(error)
        except (ValueError, ElementTree.ParseError) as error:
            cause = str(error)
        raise SourceError(
            f"{path}: the annotation cannot be read ({cause}).\n  Fix: {self._again('its subset')}"
        )

    def picture(self, name: str, *, channels: int) -> Pixels:
        """Return a picture (H, W, C) in its own size; may be called from many threads.

        Raises:
            SourceError: it is missing or damaged.
        """
        path = self.picture_path(name)
        try:
            return decode(path.read_bytes(), channels=channels, shorter_side=None).pixels_HWC
        except OSError as error:
            cause = error.strerror or str(error)
        except UnreadableImageError as error:
            cause = str(error)
        raise SourceError(
            f"{path}: the picture cannot be read ({cause}).\n  Fix: {self._again('its subset')}"
        )

    def picture_path(self, name: str) -> Path:
        """Return where a picture should be."""
        return self.folder / "JPEGImages" / f"{name}.jpg"

    def fingerprint(self, subsets: Sequence[str], classes: Sequence[str]) -> str:
        """Return a SHA-256, in hex, of the lists' contents and of their pictures' sizes and times.

        Takes 0.6 s for the 9,963 pictures of VOC 2007; none is opened.

        Raises:
            SourceError: a list is missing or damaged, or a picture is missing.
        """
        names = sorted({name for subset in subsets for name in self.marks(subset, classes).names})
        self._refuse_absent(names)
        lists = [self._list_of(name, subset) for subset in subsets for name in classes]
        told = ((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in lists)
        kind = "\n".join(["voc", *(f"{name} {digest}" for name, digest in told)])
        return fingerprint_files(kind, ((name, self.picture_path(name)) for name in names))

    @property
    def _lists(self) -> Path:
        return self.folder / "ImageSets" / "Main"

    def _list_of(self, name: str, subset: str) -> Path:
        return self._lists / f"{name}_{subset}.txt"

    def _classes_of(self, subset: str) -> set[str]:
        ending = f"_{subset}.txt"
        found = {path.name.removesuffix(ending) for path in self._lists.glob(f"[!.]*{ending}")}
        if not found:
            raise SourceError(
                f"{self._lists}: there are no lists <class>{ending} of the subset {subset}.\n"
                f"  Fix: {self._again(subset)}"
            )
        return found

    def _refuse_absent(self, names: Iterable[str]) -> None:
        there = {path.stem for path in (self.folder / "JPEGImages").glob("*.jpg")}
        if absent := [name for name in names if name not in there]:
            raise SourceError(
                f"{self.folder / 'JPEGImages'}: {len(absent)} pictures of the lists are missing: "
                f"{_some([f'{name}.jpg' for name in absent])}.\n"
                f"  Fix: {self._again('their subset')}"
            )

    def _again(self, subset: str) -> str:
        """Say how to get what is missing."""
        known = TEST if subset == "test" else TRAINVAL
        archive = known.get(self.year, "the archive") if subset in _SUBSETS else "the archive"
        return (
            f"unpack {archive} of {subset} again, over the same VOCdevkit; "
            f"the organisers of VOC distribute it: {HOME}"
        )


_SUBSETS = ("train", "val", "trainval", "test")


def _find(data: Path, year: int) -> Path:
    own = f"VOC{year}"
    candidates = [data / "VOCdevkit" / own, data / own]
    if re.fullmatch(r"VOC\d{4}", data.name) is None or data.name == own:
        candidates.append(data)
    for folder in candidates:
        if (folder / "ImageSets").is_dir():
            return folder
    archives = [name for name in (TRAINVAL.get(year), TEST.get(year)) if name]
    if data.is_dir():
        names = sorted(path.name for path in data.iterdir())
        found = _some(names) if names else "nothing"
    else:
        names, found = [], "a file" if data.exists() else "no such folder"
    packed = [name for name in names if name in archives]
    unpack = "; ".join(f"tar -xf {data / name} -C {data}" for name in packed)
    raise SourceError(
        f"{data}: holds no Pascal VOC {year}.\n"
        f"  Looked for: VOCdevkit/{own}/ImageSets, {own}/ImageSets or ImageSets\n"
        f"  Found:      {found}\n"
        f"  Fix:        "
        + (
            unpack
            or f"unpack {' and '.join(archives)} into one folder; from {HOME}, the organisers'"
        )
    )


def _read_list(path: Path) -> dict[str, int]:
    """Return the marks of a class, by the name of the picture."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: the list cannot be read ({error}).\n  Fix: take the list as VOC ships it."
        ) from error
    marks: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        match line.split():
            case []:
                continue
            case [name, mark] if mark in _MARKS and name not in marks and Path(name).name == name:
                marks[name] = _MARKS[mark]
            case _:
                raise SourceError(
                    f"{path}, line {number}: {line[:80]!r} is not the name of a picture, each "
                    f"once, and 1, 0 or -1.\n"
                    f"  Fix: take the list as VOC ships it."
                )
    return marks


def _parse(data: bytes) -> ElementTree.Element:
    text = _text(data)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can grow without end
        raise ValueError("it defines a document type, as no annotation of VOC does")
    return ElementTree.fromstring(text)  # noqa: S314  no entities, see above


def _text(data: bytes) -> str:
    """Return the text of an annotation: what it declares is not always how it is written.

    A byte order mark counts before the declaration; bytes that neither they nor UTF-8 can explain
    are Latin-1, in which every byte means something: names of classes and numbers are ASCII.
    """
    declared = _DECLARED.match(data)
    encodings = [declared[1].decode("ascii")] if declared else []
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings.insert(0, "utf-16")
    elif data.startswith(codecs.BOM_UTF8):
        encodings.insert(0, "utf-8-sig")
    for encoding in (*encodings, "utf-8"):
        try:
            text = data.decode(encoding)
        except (LookupError, ValueError):
            continue
        if text.lstrip().startswith("<"):
            return text.lstrip()
    return data.decode("latin-1").lstrip()


def _object(found: ElementTree.Element) -> VocObject:
    name = (found.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    sides = [found.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = (float(side or "") for side in sides)
    except ValueError:
        raise ValueError(f"the {name} has no box of four numbers, but {sides}") from None
    if not (1 <= left <= right < np.inf and 1 <= top <= bottom < np.inf):
        raise ValueError(f"the {name} has an impossible box, {sides}")
    difficult = (found.findtext("difficult") or "0").strip()
    return VocObject(name, (left - 1, top - 1, right, bottom), difficult == "1")


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
