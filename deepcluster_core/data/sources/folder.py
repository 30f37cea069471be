"""A folder of images, nested or flat; or a single picture."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepcluster_core.artifacts.own_output import PICTURES, TELLING, kind_of_folder
from deepcluster_core.data.sources.base import (
    SourceImage,
    displayed,
    fingerprint_files,
    is_hidden,
    is_image_name,
    read_file,
)
from deepcluster_core.errors import SourceError
from deepcluster_core.text import listed

log = logging.getLogger(__name__)

"""Folders that were left out, in one sentence."""


class FolderSource:
    """Every image file below a folder, in the order of the bytes of their paths.

    Labels: the first-level folder, when every image lies in one; none when some lie directly in
    the root, because then the folders are hardly classes. (Where
    that level is train/ and val/, give one of them.) Links are followed, so a file may come
    twice under two names; a link back to a folder above itself is not. What this program wrote
    there, runs above all, is never taken for images.
    """

    def __init__(self, root: Path, *, with_labels: bool) -> None:
        """Take `root`; nothing is read yet."""
        self._root = root.absolute()
        self._with_labels = with_labels
        self._left_out: list[str] = []

    @property
    def originals(self) -> Path:
        """The folder itself."""
        return self._root

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        top = _open_level(self._root, "").names
        is_labelled = self._with_labels and all(name.endswith("/") for name in top)
        del top
        self._left_out.clear()
        for name in walk_images(self._root, self._left_out):
            path = displayed(name)
            label = path.partition("/")[0] if is_labelled else None
            yield SourceImage(path, label, partial(read_file, self._root / name))

    def fingerprint(self) -> str:
        """See `Source`."""
        files = ((name, self._root / name) for name in walk_images(self._root))
        return fingerprint_files("folder", files)

    def count(self) -> int:
        """Walk the folders: names only, seconds for a million images."""
        return sum(1 for _ in walk_images(self._root))

    def notes(self) -> list[str]:
        """See `Source`."""
        if not self._left_out:
            return []
        number = "1 folder" if len(self._left_out) == 1 else f"{len(self._left_out):,} folders"
        return [f"left out: {number} of this program's own results: {listed(self._left_out)}"]


class PictureSource:
    """One picture."""

    def __init__(self, file: Path) -> None:
        """Take `file`; nothing is read yet."""
        self._file = file.absolute()

    @property
    def originals(self) -> Path:
        """The folder that it lies in."""
        return self._file.parent

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        yield SourceImage(displayed(self._file.name), None, partial(read_file, self._file))

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprint_files("picture", [(self._file.name, self._file)])

    def count(self) -> int:
        """Return 1."""
        return 1

    def notes(self) -> list[str]:
        """See `Source`."""
        return []


@dataclass(frozen=True)
class _Level:
    """One folder on the way down from the root."""

    prefix: str
    names: Iterator[str]
    identity: tuple[int, int]
    made_by_us: str | None
    """What this program keeps in the folder, see `kind_of_folder`."""


def walk_images(root: Path, left_out: list[str] | None = None) -> Iterator[str]:
    """Yield the paths of image files relative to `root`, '/'-separated, sorted by their bytes.

    Runs, artifacts and the like are passed over. `root` itself may be the folder of a run or sweep,
    with somebody's images beside it: then only what the run wrote is passed over.

    Args:
        root: a folder.
        left_out: gets the folders that were passed over: `runs/mine (run)`.

    Raises:
        SourceError: a folder cannot be listed.
    """
    levels = [_open_level(root, "")]
    while levels:
        level = levels[-1]
        name = next(level.names, None)
        if name is None:
            levels.pop()
        elif not name.endswith("/"):
            yield level.prefix + name
        else:
            below = _open_level(root, level.prefix + name)
            if below.made_by_us:
                if left_out is not None and below.made_by_us != "array":  # no pictures in it
                    left_out.append(f"{displayed(below.prefix)} ({below.made_by_us})")
            elif any(below.identity == above.identity for above in levels):
                where = str(root / below.prefix)
                log.warning("%r leads back to a folder above it; not followed", where)
            else:
                levels.append(below)


def _open_level(root: Path, prefix: str) -> _Level:
    folder = root / prefix
    try:
        status = folder.stat()
    except OSError as error:
        raise _cannot_list(folder, error) from error
    names, telling = _names(folder)
    made_by_us = kind_of_folder(folder, telling) if telling else None
    own = PICTURES.get(made_by_us or "", ())
    kept = iter([name for name in names if name not in own])
    return _Level(prefix, kept, (status.st_dev, status.st_ino), made_by_us)


def _names(folder: Path) -> tuple[list[str], set[str]]:
    """Return what counts in one folder, sorted by bytes; sub-folders end in '/'.

    With that '/', sorting each folder alone gives the order of the whole paths sorted at once.

    Returns:
        Names, and those of files and folders that tell whether this program made the folder.
    """
    names: list[str] = []
    telling: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in TELLING:
                    telling.add(entry.name)
                if is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    names.append(entry.name + "/")
                elif is_image_name(entry.name):
                    names.append(entry.name)
    except OSError as error:
        raise _cannot_list(folder, error) from error
    names.sort(key=os.fsencode)
    return names, telling


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _cannot_list(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{folder}: this folder cannot be listed ({error.strerror}), its images would be lost.\n"
        f"  Fix: make it readable, or move it out of the source."
    )
