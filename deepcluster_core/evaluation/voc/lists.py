"""Lists of Pascal VOC: the pictures of a subset, the classes they show, and names of classes."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.file_tree import Tree
from deepcluster_core.evaluation.voc.masks import VOID

PRESENT, DIFFICULT, ABSENT = 1, 0, -1
"""Marks of an image in the list of a class. DIFFICULT: it shows only difficult objects of it."""

_MARKS = {"1": PRESENT, "+1": PRESENT, "0": DIFFICULT, "-1": ABSENT}


def read_marks(tree: Tree, path: str) -> Mapping[str, int]:
    """Return the mark of each picture in the list of a class, by the picture's name.

    Raises:
        SourceError: the list is missing, damaged or empty, or contains a name twice.
    """
    marks: dict[str, int] = {}
    for number, line in _lines(tree, path):
        name, *fields = line.split()
        value = _MARKS.get(fields[0]) if len(fields) == 1 else None
        is_new_name = _is_name(name) and name not in marks
        if value is None or not is_new_name:
            raise SourceError(
                f"{tree.show(path)}, line {number}: {line[:80]!r} must be the name of a picture, "
                f"which occurs only once, and 1, 0 or -1.\n"
                f"  Fix: take the list as VOC ships it."
            )
        marks[name] = value
    return marks


def read_names(tree: Tree, path: str) -> tuple[str, ...]:
    """Return the sorted names of a plain list.

    Raises:
        SourceError: the list is missing, damaged or empty, or contains a name twice.
    """
    names: set[str] = set()
    for number, line in _lines(tree, path):
        if line in names or not _is_name(line):
            raise SourceError(
                f"{tree.show(path)}, line {number}: {line[:80]!r} must be the name of a picture, "
                f"which occurs only once.\n"
                f"  Fix: take the list as VOC ships it."
            )
        names.add(line)
    return tuple(sorted(names))


def read_class_names(tree: Tree, path: str) -> tuple[str, ...]:
    """Return the class names of the numbers in masks, from 0, the background; one name per line.

    Raises:
        SourceError: the file is damaged, contains a name twice, or has too few or too many names.
    """
    names = [line for _, line in _lines(tree, path)]
    num_different = len(set(names))
    has_duplicates = num_different < len(names)
    # The numbers of classes must leave VOID free.
    if has_duplicates or not 2 <= len(names) <= VOID:
        raise SourceError(
            f"{tree.show(path)}: must list the classes 0, which is the background, to {VOID - 1} "
            f"at most, a different name in each line; it has {len(names)} names, {num_different} "
            f"of them different.\n"
            f"  Fix: list the classes in the order of their numbers in the masks."
        )
    return tuple(names)


def _lines(tree: Tree, path: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their line numbers.

    Raises:
        SourceError: the list cannot be read or is empty.
    """
    try:
        text = tree.read(path).decode("utf-8-sig")  # Windows' editors add a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{tree.show(path)}: the list cannot be read ({error}).\n"
            f"  Fix: take the list as VOC ships it."
        ) from error
    lines = enumerate(map(str.strip, text.splitlines()), start=1)
    filled = [(number, line) for number, line in lines if line]
    if not filled:
        raise SourceError(
            f"{tree.show(path)}: the list is empty.\n  Fix: take the list as VOC ships it."
        )
    return filled


def _is_name(name: str) -> bool:
    """Return whether a line names a file, and not a path that may lead out of the folder."""
    return PurePosixPath(name).name == name
