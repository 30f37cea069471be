"""A folder of images, nested or flat."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepcluster_core.data.sources.base import (
    SourceImage,
    displayed,
    fingerprint_files,
    is_hidden,
    is_image_name,
    read_file,
)
from deepcluster_core.errors import SourceError

log = logging.getLogger(__name__)


class FolderSource:
    """Every image file below a folder, in the order of the bytes of their paths.

    Labels: the first-level folder, when every image lies in one; none when some lie directly in
    the root, because then the folders are hardly classes. (Where
    that level is train/ and val/, give one of them.) Links are followed, so a file may come
    twice under two names; a link back to a folder above itself is not.
    """

    def __init__(self, root: Path, *, with_labels: bool) -> None:
        """Take `root`; nothing is read yet."""
        self._root = root.absolute()
        self._with_labels = with_labels

    @property
    def originals(self) -> Path:
        """The folder itself."""
        return self._root

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        top = _names(self._root)
        is_labelled = self._with_labels and all(name.endswith("/") for name in top)
        del top
        for name in walk_images(self._root):
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
        return []


@dataclass(frozen=True)
class _Level:
    """One folder on the way down from the root."""

    prefix: str
    names: Iterator[str]
    identity: tuple[int, int]


def walk_images(root: Path) -> Iterator[str]:
    """Yield the paths of image files relative to `root`, '/'-separated, sorted by their bytes.

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
            if any(below.identity == above.identity for above in levels):
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
    return _Level(prefix, iter(_names(folder)), (status.st_dev, status.st_ino))


def _names(folder: Path) -> list[str]:
    """Return what counts in one folder, sorted by bytes; sub-folders end in '/'.

    With that '/', sorting each folder alone gives the order of the whole paths sorted at once.
    """
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    names.append(entry.name + "/")
                elif is_image_name(entry.name):
                    names.append(entry.name)
    except OSError as error:
        raise _cannot_list(folder, error) from error
    names.sort(key=os.fsencode)
    return names


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
