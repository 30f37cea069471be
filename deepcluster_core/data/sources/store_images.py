"""Images that are files of their own on an object store: those of a folder, and a single one."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import cast

from deepcluster_core.artifacts.own_output import PICTURES, TELLING, Folder, kind_among
from deepcluster_core.data.sources.base import (
    SourceImage,
    displayed,
    is_hidden,
    is_image_name,
)
from deepcluster_core.data.sources.folder import NamedImages, extension_of
from deepcluster_core.data.sources.store_files import (
    REQUESTS,
    StoreFile,
    fingerprint_stored,
    list_files,
)
from deepcluster_core.data.sources.tally import count_up
from deepcluster_core.store_urls import StoreUrl


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that send the requests of all sources of this process."""
    return ThreadPoolExecutor(REQUESTS, thread_name_prefix="store")


class _Fetch:
    """A file that is fetched ahead if `prepare` is called, and otherwise when it is read."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self._ahead: Future[bytes] | None = None

    def prepare(self) -> None:
        if self._ahead is None:
            self._ahead = _pool().submit(self._file.read)

    def read(self) -> bytes:
        ahead, self._ahead = self._ahead, None  # the bytes are held once
        return self._file.read() if ahead is None else ahead.result()


def stored_image(file: StoreFile, path: str, label: str | None) -> SourceImage:
    """Return the image in a file of a store."""
    fetch = _Fetch(file)
    return SourceImage(path, label, fetch.read, fetch.prepare)


@dataclass(frozen=True)
class StoreTree:
    """All files below a folder of a store, listed once."""

    url: StoreUrl

    @cached_property
    def files(self) -> dict[str, StoreFile]:
        """The files that are not hidden, by name, in the order of the bytes of the names."""
        files: dict[str, StoreFile] = {}
        for file in list_files(self.url):
            if not any(map(is_hidden, file.name.split("/"))):
                files[file.name] = file
        return files

    @cached_property
    def own_folders(self) -> dict[str, str]:
        """The folders of this program's results and what each is; names as `walk_images` has."""
        telling: defaultdict[str, set[str]] = defaultdict(set)
        for name in self.files:
            folders = name.split("/")
            for depth, part in enumerate(folders):
                if part in TELLING:
                    telling["/".join(folders[:depth])].add(part)
        kinds: dict[str, str] = {}
        for prefix, names in telling.items():
            # Folders alone tell nothing, and `images` is a usual name.
            if any(f"{prefix}/{name}".lstrip("/") in self.files for name in names):
                folder = cast("Folder", _Folder(self.files, prefix))
                if kind := kind_among(folder, names):
                    kinds[prefix] = kind
        return kinds

    def image_names(
        self, left_out: list[str] | None = None, others: Counter[str] | None = None
    ) -> Iterator[str]:
        """Yield the names of the images; arguments and order are those of `walk_images`."""
        own = {prefix for prefix in self.own_folders if prefix}
        own_pictures = PICTURES.get(self.own_folders.get("", ""), ())
        counted = None if "" in self.own_folders else others
        for name in self.files:
            if _is_below(name, own) or name in own_pictures:
                continue
            if is_image_name(name):
                yield name
            elif counted is not None:
                count_up(counted, extension_of(name.rpartition("/")[2]))
        if left_out is not None:
            left_out += self._left_out(own)

    def _left_out(self, own: set[str]) -> list[str]:
        """Return the outermost folders of results, as `walk_images` writes them."""
        left_out: list[str] = []
        for prefix in sorted(own, key=os.fsencode):
            kind = self.own_folders[prefix]
            # Folders of arrays hold no pictures that a user could miss.
            if kind != "array" and not _is_below(prefix, own):
                left_out.append(f"{displayed(prefix)}/ ({kind})")
        return left_out


@dataclass(frozen=True)
class _Folder:
    """A folder of a store, as far as `kind_among` uses a path."""

    files: Mapping[str, StoreFile]
    prefix: str

    def __truediv__(self, name: str) -> StoreFile:
        path = f"{self.prefix}/{name}" if self.prefix else name
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]


def _is_below(name: str, folders: set[str]) -> bool:
    """Return whether a name is in one of the folders, at any depth."""
    if not folders:
        return False
    place = name.rpartition("/")[0]
    while place:
        if place in folders:
            return True
        place = place.rpartition("/")[0]
    return False


class StoreFolderSource(NamedImages):
    """The images below a folder of a store."""

    def __init__(self, tree: StoreTree, *, with_labels: bool) -> None:
        """Store the arguments; nothing is read yet."""
        super().__init__(with_labels=with_labels)
        self._tree = tree

    @property
    def originals(self) -> None:
        """None: there are no files on this machine."""
        return None

    def fingerprint(self) -> str:
        """See `Source`."""
        files = self._tree.files
        return fingerprint_stored("folder", ((name, files[name]) for name in self._names()))

    def _names(
        self, left_out: list[str] | None = None, others: Counter[str] | None = None
    ) -> Iterator[str]:
        return self._tree.image_names(left_out, others)

    def _has_only_folders(self) -> bool:
        return all("/" in name for name in self._names())

    def _image(self, name: str, label: str | None) -> SourceImage:
        return stored_image(self._tree.files[name], displayed(name), label)


class StorePictureSource:
    """A single picture on a store."""

    def __init__(self, file: StoreFile) -> None:
        """Store the argument; nothing is read yet."""
        self._file = file

    @property
    def originals(self) -> None:
        """None: there are no files on this machine."""
        return None

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        yield stored_image(self._file, displayed(self._file.name), None)

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprint_stored("picture", [(self._file.name, self._file)])

    def count(self) -> int:
        """Return 1."""
        return 1

    def notes(self) -> list[str]:
        """See `Source`."""
        return []
