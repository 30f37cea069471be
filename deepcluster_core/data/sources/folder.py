"""A folder of images, nested or flat; or a single picture."""

import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
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
from deepcluster_core.data.sources.tally import count_up, counts
from deepcluster_core.errors import SourceError
from deepcluster_core.text import counted, listed

log = logging.getLogger(__name__)


class NamedImages(ABC):
    """All image files below a folder, in the order of the bytes of their paths.

    The label of an image is the name of its first-level folder. If some images are directly in the
    root, there are no labels, because the folders are probably not classes. (If the first level is
    train/ and val/, give one of these folders.) Runs and other results of this program are never
    read as images.
    """

    def __init__(
        self, *, with_labels: bool, is_wanted: Callable[[str], bool] | None = None
    ) -> None:
        """Store the arguments; nothing is read yet.

        Args:
            with_labels: give images the names of their first-level folders.
            is_wanted: which names the reader of this source uses; None for all of them. The others
                are yielded as well, but do not decide whether there are labels.
        """
        self._is_wanted = is_wanted
        self._with_labels = with_labels
        self._left_out: list[str] = []
        self._others: Counter[str] = Counter()
        """Files that are no pictures by their names, by extension."""
        self._num_flat = 0
        """Images directly in the root, if there are others in folders."""

    @abstractmethod
    def _names(
        self, left_out: list[str] | None = None, others: Counter[str] | None = None
    ) -> Iterator[str]:
        """Yield the names of the images; the arguments are those of `walk_images`."""

    @abstractmethod
    def _has_only_folders(self) -> bool:
        """Return whether no image is directly in the root."""

    @abstractmethod
    def _image(self, name: str, label: str | None) -> SourceImage: ...

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        # Only images in first-level folders have labels, and only if all images have one.
        is_labelled = self._with_labels and self._has_only_folders()
        self._left_out.clear()
        self._others.clear()
        num_flat = num_nested = 0
        for name in self._names(self._left_out, self._others):
            path = displayed(name)
            top_folder, is_nested, _ = path.partition("/")
            if is_nested:
                num_nested += 1
            elif self._is_flat(path):
                num_flat += 1
            yield self._image(name, top_folder if is_labelled else None)
        self._num_flat = num_flat if num_nested else 0

    def _is_flat(self, name: str) -> bool:
        """Return whether a name in the root is an image that belongs to no class."""
        return not name.endswith("/") and (self._is_wanted is None or self._is_wanted(name))

    def count(self) -> int:
        """Count by names alone, which takes seconds for a million images."""
        return sum(1 for _ in self._names())

    def notes(self) -> list[str]:
        """See `Source`."""
        notes: list[str] = []
        if self._num_flat and self._with_labels:
            lie = "lies" if self._num_flat == 1 else "lie"
            notes.append(
                f"no true labels: {counted(self._num_flat, 'image')} {lie} beside the folders, so "
                f"they are not classes"
            )
        if self._others:
            notes.append(
                f"left out, because their names are not those of images: {counts(self._others)}"
            )
        count = len(self._left_out)
        if count:
            own = listed(self._left_out)
            notes.append(
                f"left out: {counted(count, 'folder')} of this program's own results: {own}"
            )
        return notes


class FolderSource(NamedImages):
    """The images below a folder of this machine.

    Links are followed, so a file may occur under two names, but not links to a folder above
    themselves.
    """

    def __init__(
        self, root: Path, *, with_labels: bool, is_wanted: Callable[[str], bool] | None = None
    ) -> None:
        """Store the arguments; nothing is read yet. See `NamedImages`."""
        super().__init__(with_labels=with_labels, is_wanted=is_wanted)
        self._root = root.absolute()

    @property
    def originals(self) -> Path:
        """The folder itself."""
        return self._root

    def fingerprint(self) -> str:
        """See `Source`."""
        files = ((name, self._root / name) for name in walk_images(self._root))
        return fingerprint_files("folder", files)

    def _names(
        self, left_out: list[str] | None = None, others: Counter[str] | None = None
    ) -> Iterator[str]:
        return walk_images(self._root, left_out, others)

    def _has_only_folders(self) -> bool:
        return not any(self._is_flat(name) for name in _open_level(self._root, "").names)

    def _image(self, name: str, label: str | None) -> SourceImage:
        return SourceImage(displayed(name), label, partial(read_file, self._root / name))


class PictureSource:
    """A single picture."""

    def __init__(self, file: Path) -> None:
        """Store the argument; nothing is read yet."""
        self._file = file.absolute()

    @property
    def originals(self) -> Path:
        """The folder of the picture."""
        return self._file.parent

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        path = displayed(self._file.name)
        yield SourceImage(path, None, partial(read_file, self._file))

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
    """A folder that is being walked; `walk_images` holds one for each level of depth."""

    prefix: str
    """Path relative to the root, with a '/' at the end; empty for the root."""
    names: Iterator[str]
    """The names that have not been visited yet; those of folders end in '/'."""
    identity: tuple[int, int]
    """Device and inode, which are the same for all links to a folder."""
    made_by_us: str | None
    """What this program keeps in the folder, see `kind_of_folder`."""
    others: Counter[str]
    """Its files that are no pictures by their names, by extension."""


def walk_images(
    root: Path, left_out: list[str] | None = None, others: Counter[str] | None = None
) -> Iterator[str]:
    """Yield the paths of image files relative to `root`, '/'-separated, sorted by their bytes.

    Runs, artifacts and the like are skipped. If `root` itself is the folder of a run or sweep, it
    may also hold a user's images; then only the files of the run are skipped.

    Args:
        root: a folder.
        left_out: a list to which skipped folders are appended: `runs/mine (run)`.
        others: receives the number of files with other names than images have, by extension.

    Raises:
        SourceError: a folder cannot be listed.
    """
    # A stack of folders rather than recursion, because the depth has no limit.
    levels: list[_Level] = []
    _enter(_open_level(root, ""), levels, others)
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
                # Folders of arrays hold no pictures that a user could miss.
                if left_out is not None and below.made_by_us != "array":
                    left_out.append(f"{displayed(below.prefix)} ({below.made_by_us})")
            elif any(below.identity == above.identity for above in levels):
                where = str(root / below.prefix)
                log.warning("%r leads back to a folder above it; not followed", where)
            else:
                _enter(below, levels, others)


def _enter(level: _Level, levels: list[_Level], others: Counter[str] | None) -> None:
    """Go into a folder, and count its files that are no pictures unless this program wrote them."""
    levels.append(level)
    if others is not None and level.made_by_us is None:
        for extension, count in level.others.items():
            count_up(others, extension, count)


def _open_level(root: Path, prefix: str) -> _Level:
    folder = root / prefix
    try:
        status = folder.stat()
    except OSError as error:
        raise _cannot_list(folder, error) from error
    identity = (status.st_dev, status.st_ino)
    names, telling, others = _names(folder)
    # Few folders contain a telling name, and only those are examined.
    made_by_us = kind_of_folder(folder, telling) if telling else None
    own_pictures = PICTURES.get(made_by_us or "", ())
    kept_names = [name for name in names if name not in own_pictures]
    return _Level(prefix, iter(kept_names), identity, made_by_us, others)


def _names(folder: Path) -> tuple[list[str], set[str], Counter[str]]:
    """Return the names of images and sub-folders in a folder, sorted by bytes.

    Those of sub-folders end in '/': then sorting each folder alone results in the order of all
    paths sorted at once.

    Returns:
        These names, the names that show whether this program made the folder (`TELLING`), and the
        number of all other files by extension.
    """
    names: list[str] = []
    others: Counter[str] = Counter()
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
                else:
                    count_up(others, extension_of(entry.name))
    except OSError as error:
        raise _cannot_list(folder, error) from error
    names.sort(key=os.fsencode)
    return names, telling, others


def extension_of(name: str) -> str:
    """Return the extension with its dot, in lower case, for a note."""
    _, dot, last_part = name.rpartition(".")
    return f"{dot}{last_part}".lower() if dot else "without extension"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _cannot_list(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{folder}: this folder cannot be listed ({error.strerror}), so its images would be lost.\n"
        f"  Fix: make it readable, or move it out of the source."
    )
