"""Determine the kind of source at a URL of an object store, and open it."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NoReturn

from deepcluster_core.artifacts.own_output import is_own_table
from deepcluster_core.data.sources.base import Source, displayed, is_image_name
from deepcluster_core.data.sources.compressed import SUFFIXES as PACKED_TAR
from deepcluster_core.data.sources.downloads import Scratch
from deepcluster_core.data.sources.listing import ListSource
from deepcluster_core.data.sources.store_files import StoreFile, find_files
from deepcluster_core.data.sources.store_images import (
    StoreFolderSource,
    StorePictureSource,
    StoreTree,
)
from deepcluster_core.data.sources.store_shards import StoreParquetSource, StoreTarSource
from deepcluster_core.data.sources.tally import counts
from deepcluster_core.data.sources.wanted import Wanted, several_kinds
from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.store_urls import StoreUrl

SUFFIXES = {
    "parquet": (".parquet",),
    "tar": (".tar", *PACKED_TAR),
    "list": (".txt", ".csv", ".tsv", ".lst"),
}
"""Extensions of the files of a kind."""


def open_stored(url: StoreUrl, kind: str, wanted: Wanted, scratch: Scratch) -> Source:
    """Return the source at a URL, without opening an image.

    Args:
        url: a folder, a file, or several files by braces.
        kind: the kind that is required; auto decides by the names.
        wanted: what is read of it.
        scratch: where large files are downloaded to.

    Raises:
        SourceError: there is nothing, the kind is different, or the store is not available.
        ConfigError: the options do not fit the source.
    """
    if kind == "geotiff" or wanted.tile is not None:
        raise ConfigError(
            f"{url}: GeoTIFF scenes are read where they are needed, a window at a time, and so "
            f"only from this machine.\n"
            f"  Fix: copy them here, or mount the bucket, and give that path."
        )
    files = _named_files(url)
    found = _kind_of_names(url, [file.name for file in files], kind) if files else None
    if found in ("list", "picture"):
        wanted.check_has_effect(url, found, has_samples=False)
        if found == "picture":
            return StorePictureSource(files[0])
        return ListSource(files[0], with_labels=wanted.with_labels)
    if found is None:
        tree = StoreTree(url)
        found, files = _kind_of_tree(tree, kind)
        if found == "folder":
            wanted.check_has_effect(url, found, has_samples=False)
            return StoreFolderSource(tree, with_labels=wanted.with_labels)
    wanted.check_has_effect(url, found, has_samples=True)
    return _open_samples(found, url, files, wanted, scratch)


def _open_samples(
    kind: str, url: StoreUrl, files: Sequence[StoreFile], wanted: Wanted, scratch: Scratch
) -> Source:
    settings = {
        "with_labels": wanted.with_labels,
        "image_key": wanted.image_key,
        "label_key": wanted.label_key,
    }
    if kind == "tar":
        return StoreTarSource(files, scratch, **settings)
    return StoreParquetSource(url, files, scratch, **settings)


def _named_files(url: StoreUrl) -> list[StoreFile]:
    """Return the files that a URL names, sorted by name; none if it is that of a folder."""
    suffixes = tuple(suffix for each in SUFFIXES.values() for suffix in each)
    name = url.name.lower()
    if not url.has_braces and not name.endswith(suffixes) and not is_image_name(name):
        return []
    if url.parent is None:  # a bucket may be named pictures.png
        return []
    files = find_files(url.expanded())
    if len({file.name for file in files}) < len(files):
        raise SourceError(
            f"{url}: several of its files have the same name, so their images could not be told "
            f"apart.\n  Fix: give files of different names, or a folder that holds them all."
        )
    return sorted(files, key=lambda file: os.fsencode(file.name))


def _kind_of_names(url: StoreUrl, names: Sequence[str], kind: str) -> str:
    """Return the kind of files that are named one by one."""
    kinds: set[str] = set()
    for name in names:
        kinds.add(_kind_of_name(name.lower()))
    if kinds == {"picture"} and kind == "auto" and len(names) == 1:
        return "picture"
    found = kinds.pop() if len(kinds) == 1 else None
    is_single = found in ("tar", "parquet") or len(names) == 1
    if found is None or found in ("picture", "other") or not is_single:
        raise SourceError(
            f"{url}: braces stand for several tar files or several Parquet files only.\n"
            f"  Fix: give such files, or the folder or list of the images."
        )
    if kind not in ("auto", found):
        _raise_nothing(url, kind, names)
    return found


def _kind_of_name(name: str) -> str:
    for kind, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    return "picture" if is_image_name(name) else "other"


def _kind_of_tree(tree: StoreTree, kind: str) -> tuple[str, list[StoreFile]]:
    """Return the only kind of which a folder has files, and its files if it is one of shards.

    The rules are those of folders on this machine.
    """
    by_kind: dict[str, list[StoreFile]] = {
        "parquet": _parquet_files(tree),
        "tar": _directly_in(tree, ".tar") or [],
    }
    found = [name for name, files in by_kind.items() if files]
    if next(tree.image_names(), None) is not None:
        found.append("folder")
    packed = _directly_in(tree, *PACKED_TAR)
    # Beside images, a compressed tar file is what they were unpacked from.
    if packed and not by_kind["tar"] and (kind == "tar" or not found):
        by_kind["tar"] = packed
        found.append("tar")
    if kind != "auto":
        if kind not in found:
            _raise_nothing(tree.url, kind, tree.files)
        return kind, by_kind.get(kind, [])
    if len(found) > 1:
        raise several_kinds(tree.url, _survey(tree.files), found)
    if not found:
        wanted = "images at any depth, or .parquet, .tar or .tar.gz files directly in it"
        _raise_nothing(tree.url, wanted, tree.files)
    return found[0], by_kind.get(found[0], [])


def _directly_in(tree: StoreTree, *suffixes: str) -> list[StoreFile]:
    return [
        file
        for name, file in tree.files.items()
        if "/" not in name and name.lower().endswith(suffixes)
    ]


def _parquet_files(tree: StoreTree) -> list[StoreFile]:
    """Return the files in a folder and in its partitions, which are folders `column=value`."""
    files: list[StoreFile] = []
    for name, file in tree.files.items():
        folders = name.split("/")[:-1]
        if name.lower().endswith(".parquet") and all("=" in folder for folder in folders):
            # Tables of this program are Parquet files too, but hold no images.
            if not is_own_table(file):
                files.append(file)
    return files


def _raise_nothing(url: StoreUrl, wanted: str, names: Iterable[str]) -> NoReturn:
    """Raise the error for a place without images of a kind, with what it holds."""
    found = _survey(names)
    fix = "give the folder or file that the images are in"
    if found == "nothing":
        fix = "correct the URL; folders of a store exist only as parts of the names of files"
    raise SourceError(f"{url}: looked for {wanted}; found {found}.\n  Fix: {fix}.")


def _survey(names: Iterable[str]) -> str:
    """Return a summary of files: `12 .parquet, 1 .md`."""
    found: Counter[str] = Counter()
    for name in names:
        _, dot, extension = name.rpartition("/")[2].rpartition(".")
        found[f".{extension.lower()}" if dot else "without extension"] += 1
    return displayed(counts(found)) if found else "nothing"
