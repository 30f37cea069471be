"""Data sets for landmark retrieval: Oxford5k, Paris6k, and user folders.

Images may lie anywhere below the folder: flat, in `jpg/`, or as in Paris6k in
`paris/<landmark>/*.jpg`. The ground truth has one of two formats:

- The files of both data sets as distributed: for each query `<query>_query.txt`,
  `<query>_good.txt`, `<query>_ok.txt` and `<query>_junk.txt`, in the folder or in one directly
  below it (`gt_files/`). The first file holds a name and a box, as in
  `oxc1_all_souls_000013 136.5 34.1 648.5 955.7`; the others hold a name per line. A name is that of
  an image file without folder, extension and the prefix `oxc1_`.
- The file `ground_truth.yaml` in the folder, a list of queries with paths relative to the folder:

      - query: church/017.jpg
        box: [136.5, 34.1, 648.5, 955.7]
        good: [church/003.jpg, church/021.jpg]
        ok: [church/008.jpg]
        junk: []

  `box` is left, top, right, bottom in pixels of the upright image. Without it, the query is the
  whole image. `ok` and `junk` are optional. The query's own image is junk unless it is listed.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from deepcluster_core.config import StrictConfig
from deepcluster_core.data.sources.base import displayed, fingerprint_files
from deepcluster_core.data.sources.folder import walk_images
from deepcluster_core.errors import SourceError

GROUND_TRUTH = "ground_truth.yaml"
QUERY = "_query.txt"
PREFIX = "oxc1_"
ARCHIVES = (".tar", ".tgz", ".tar.gz")
ORIGIN = "Oxford5k and Paris6k come from robots.ox.ac.uk/~vgg/data, oxbuildings and parisbuildings"

CORRUPT = frozenset(
    f"paris_{name}"
    for name in (
        "louvre_000136 louvre_000146 moulinrouge_000422 museedorsay_001059 notredame_000188 "
        "pantheon_000284 pantheon_000960 pantheon_000974 pompidou_000195 pompidou_000196 "
        "pompidou_000201 pompidou_000467 pompidou_000640 sacrecoeur_000299 sacrecoeur_000330 "
        "sacrecoeur_000353 triomphe_000662 triomphe_000833 triomphe_000863 triomphe_000867"
    ).split()
)
"""The 20 files that Paris6k's distributors list as corrupt; published results exclude them."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright original; right and bottom are exclusive."""


@dataclass(frozen=True)
class Query:
    """A part of an image that shows a landmark. Images are numbered as in `Landmarks`."""

    name: str
    image: int
    box: Box | None
    """The part of the image; None for the whole image."""
    positive: frozenset[int]
    """Images that show the landmark (good and ok)."""
    junk: frozenset[int]
    """Images that hardly show it, and so count neither as right nor as wrong."""


@dataclass(frozen=True)
class Landmarks:
    """A data set whose images have been listed, but not opened."""

    root: Path
    images: tuple[str, ...]
    """Images of the database: paths below `root`, in the order of their bytes."""
    queries: tuple[Query, ...]
    files: tuple[Path, ...]
    """Files of the ground truth."""

    def fingerprint(self) -> str:
        """Return a SHA-256 of the images' names, sizes and times, and of the ground truth."""
        of_images = fingerprint_images(self.root, self.images)
        digest = hashlib.sha256(of_images.encode())
        for path in self.files:
            name = os.fsencode(path.name)
            data = _read(path)
            # The length separates the contents of a file from the name of the next.
            digest.update(b"\0%b\0%d\0%b" % (name, len(data), data))
        return digest.hexdigest()


def open_landmarks(root: Path, parse_yaml: Callable[[str], Any]) -> Landmarks:
    """Read the image names and the ground truth of a data set.

    Args:
        root: folder of the data set.
        parse_yaml: function that converts YAML text to values, and raises ValueError.

    Raises:
        SourceError: the data set is missing or incomplete, or has a different layout.
    """
    images = list_photographs(root)
    # The ground truth is either a list or a folder of files, never both.
    list_file = root / GROUND_TRUTH
    has_list = list_file.is_file()
    folders = _folders_with_queries(root)
    found = [list_file, *folders] if has_list else folders
    if len(found) != 1:
        raise SourceError(_not_one_ground_truth(root, found))
    if has_list:
        queries = _listed(list_file, images, parse_yaml)
        return Landmarks(root, images, queries, (list_file,))
    folder = folders[0]
    files = sorted(path for path in folder.iterdir() if path.suffix == ".txt")
    queries = _shipped(folder, images, root)
    return Landmarks(root, images, queries, tuple(files))


def list_photographs(root: Path) -> tuple[str, ...]:
    """Return the paths of all images below a folder, without those that are known to be corrupt.

    Raises:
        SourceError: the folder is missing, cannot be listed, or holds no images.
    """
    if not root.is_dir():
        raise SourceError(
            f"{root}: this folder does not exist.\n  Fix: give the data set's folder. {ORIGIN}."
        )
    images = tuple(name for name in walk_images(root) if not _is_corrupt(name))
    if not images:
        raise SourceError(
            f"{root}: there are no images in this folder or below it.\n"
            f"  Looked for: *.jpg, jpg/*.jpg, paris/<landmark>/*.jpg\n"
            f"  {_unpack(root)}"
        )
    return images


def fingerprint_images(root: Path, images: Sequence[str]) -> str:
    """Return a SHA-256 of the names, sizes and times of images, without opening them."""
    named_files = ((name, root / name) for name in images)
    return fingerprint_files("landmarks", named_files)


def _folders_with_queries(root: Path) -> list[Path]:
    """Return the folder itself and the folders directly in it, if they have files of queries."""
    try:
        below = sorted(filter(Path.is_dir, root.iterdir()))
        folders = [root, *below]
        return [folder for folder in folders if any(folder.glob(f"*{QUERY}"))]
    except OSError as error:
        raise SourceError(f"{root}: cannot be listed ({error.strerror}).") from error


def _not_one_ground_truth(root: Path, found: Sequence[Path]) -> str:
    if found:
        names = ", ".join(str(path) for path in found)
        return (
            f"{root}: has more than one ground truth: {names}.\n  Fix: move all but one out of it."
        )
    return (
        f"{root}: has images, but no ground truth that lists what they show.\n"
        f"  Looked for: <query>{QUERY} in it and in the folders directly in it, and {GROUND_TRUTH}"
        f"\n  {_unpack(root)}"
    )


def _unpack(root: Path) -> str:
    """Return the line "Fix: …" for missing files, which may still be in an archive."""
    # An archive in the folder suggests that unpacking was forgotten.
    for path in sorted(root.iterdir()):
        if path.name.endswith(ARCHIVES):
            return f"Fix: unpack the archive in this folder: tar -xf {path} -C {root}"
    return f"Fix: give the data set's own folder. {ORIGIN}."


class _Names:
    """Index of images by the names that a ground truth uses."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        """Index the names of the images, in the order of their numbers."""
        self._root = root
        self._number: dict[str, int] = {}
        self._twice: set[str] = set()
        for number, name in enumerate(names):
            if name in self._number:
                self._twice.add(name)
            self._number[name] = number

    def find(self, names: Iterable[str], where: str) -> frozenset[int]:
        """Return the numbers of images, without those that are known to be corrupt.

        Raises:
            SourceError: a name has no image, or more than one.
        """
        # Corrupt images are not in the database, although ground truths name them.
        asked = [name for name in names if not _is_corrupt(name)]
        absent = [name for name in asked if name not in self._number]
        ambiguous = sorted(self._twice.intersection(asked))
        if absent:
            raise SourceError(
                f"{where}: {len(absent)} of the {len(asked)} images that it names are not below "
                f"{self._root}, the first of them {absent[0]!r}.\n"
                f"  Cause: images are missing, or the ground truth is that of another data set."
            )
        if ambiguous:
            raise SourceError(
                f"{where}: names {ambiguous[0]!r}, and there are several images with this name "
                f"below {self._root}.\n"
                f"  Fix: keep one of them, or name images by their paths in {GROUND_TRUTH}."
            )
        return frozenset(self._number[name] for name in asked)


def _query(
    name: str,
    box: Box | None,
    images: frozenset[int],
    lists: tuple[frozenset[int], ...],
    where: str,
) -> Query:
    """Return a validated query.

    Raises:
        SourceError: the box is invalid, the image is corrupt, or the lists of images contradict
            each other or hold nothing to find.
    """
    positive, junk = lists
    if box is not None:
        left, top, right, bottom = box
        is_valid = left < right and top < bottom  # False for NaN, too
        if not is_valid:
            raise SourceError(f"{where}: {box} is not a box of left, top, right, bottom.")
    if not images:
        raise SourceError(f"{where}: the query's image is known to be corrupt.")
    if not positive:
        raise SourceError(f"{where}: no image is good or ok, so the query has nothing to find.")
    if positive & junk:
        raise SourceError(f"{where}: lists an image both as good or ok and as junk.")
    (image,) = images
    return Query(name, image, box, positive, junk)


def _shipped(folder: Path, images: Sequence[str], root: Path) -> tuple[Query, ...]:
    """Read the queries from the files of a data set as distributed, four for each query."""
    stems = [displayed(_stem(name)) for name in images]
    names = _Names(root, stems)

    def find_listed(path: Path) -> frozenset[int]:
        return names.find(_lines(path), str(path))

    queries: list[Query] = []
    for path in sorted(folder.glob(f"*{QUERY}")):
        name = path.name.removesuffix(QUERY)
        image, box = _query_line(path)
        good = find_listed(folder / f"{name}_good.txt")
        ok = find_listed(folder / f"{name}_ok.txt")
        junk = find_listed(folder / f"{name}_junk.txt")
        own = names.find([image], str(path))
        lists = (good | ok, junk)
        query = _query(displayed(name), box, own, lists, str(path))
        queries.append(query)
    return tuple(queries)


def _query_line(path: Path) -> tuple[str, Box]:
    """Return the name of a query's image without the prefix, and the query's box."""
    lines = _lines(path)
    try:
        (line,) = lines
        # The name may contain blanks, so split from the right.
        name, *sides = line.rsplit(maxsplit=4)
        left, top, right, bottom = map(float, sides)
    except ValueError as error:
        raise SourceError(
            f"{path}: must hold one line, a name and the four numbers of a box; it begins with "
            f"{' '.join(lines)[:80]!r}."
        ) from error
    return name.removeprefix(PREFIX), (left, top, right, bottom)


def _lines(path: Path) -> list[str]:
    """Return the lines that are not blank."""
    text = _read(path).decode("utf-8", "backslashreplace")  # as `displayed` writes names
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line]


class _Listed(StrictConfig):
    """A query of `ground_truth.yaml`."""

    query: str
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    good: tuple[str, ...]
    ok: tuple[str, ...] = ()
    junk: tuple[str, ...] = ()


_LISTED = TypeAdapter(Annotated[list[_Listed], Field(min_length=1)])


def _listed(
    path: Path,
    images: Sequence[str],
    parse_yaml: Callable[[str], Any],
) -> tuple[Query, ...]:
    """Read the queries from `ground_truth.yaml`."""
    try:
        content = parse_yaml(_read(path).decode())
        entries = _LISTED.validate_python(content, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SourceError(
            f"{path}: {error.error_count()} problem(s), the first at {key or 'the top'}: "
            f"{first['msg']}.\n"
            f"  Fix: write a list of queries, each with the keys query and good, and optionally "
            f"box, ok and junk."
        ) from error
    except ValueError as error:  # also of bytes that are not UTF-8
        raise SourceError(f"{path}: cannot be read as YAML: {error}") from error

    names = _Names(path.parent, [displayed(name) for name in images])
    queries: list[Query] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, query {number}"
        own = names.find([entry.query], where)
        positive = names.find(entry.good + entry.ok, where)
        # A query finds its own image trivially, so this is junk unless it is listed.
        unlisted = own - positive
        junk = names.find(entry.junk, where) | unlisted
        name = f"{number} {entry.query}"
        lists = (positive, junk)
        queries.append(_query(name, entry.box, own, lists, where))
    return tuple(queries)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path}: this part of the ground truth cannot be read ({error.strerror}).\n"
            f"  Fix: unpack all of it. {ORIGIN}."
        ) from error


def _is_corrupt(name: str) -> bool:
    return _stem(name) in CORRUPT


def _stem(name: str) -> str:
    """Return the name of a file without its folder and extension."""
    _, _, file_name = name.rpartition("/")
    stem, _, _ = file_name.rpartition(".")
    return stem or file_name
