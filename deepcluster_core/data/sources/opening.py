"""Determine the kind of source at a location, and open it."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Literal, ParamSpec

from deepcluster_core.artifacts.own_output import is_own_table, kind_of_folder
from deepcluster_core.artifacts.permissions import why_not_readable
from deepcluster_core.data.sources.base import Source, displayed, is_hidden, is_image_name
from deepcluster_core.data.sources.bookmarks import ResumableSource
from deepcluster_core.data.sources.compressed import SUFFIXES as PACKED_TAR
from deepcluster_core.data.sources.downloads import Scratch
from deepcluster_core.data.sources.folder import (
    FolderSource,
    PictureSource,
    walk_images,
)
from deepcluster_core.data.sources.geotiff import GeotiffSource
from deepcluster_core.data.sources.listing import ListSource
from deepcluster_core.data.sources.parquet import ParquetSource
from deepcluster_core.data.sources.shard_files import LocalShards
from deepcluster_core.data.sources.shards import TarSource
from deepcluster_core.data.sources.store_opening import open_stored
from deepcluster_core.data.sources.wanted import Wanted, several_kinds
from deepcluster_core.errors import SourceError
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.geotiff.scenes import is_scene_name
from deepcluster_core.local_paths import check_is_local, missing_hint
from deepcluster_core.store_urls import Location, StoreUrl
from deepcluster_core.text import listed

Parameters = ParamSpec("Parameters")
KindName = Literal["folder", "list", "parquet", "tar", "geotiff"]
Kind = Literal["auto", KindName]

NEVER_IMAGES = ("artifact", "array")
"""Folders of this program that never hold images of a user."""
SURVEYED_FILES = 10_000
"""Limit on the files that are counted for an error message."""

COMPRESSED = (".gz", ".tgz", ".zst", ".bz2", ".tbz2", ".xz", ".txz", ".lz4")


def _permissions_explained(opener: Callable[Parameters, Source]) -> Callable[Parameters, Source]:
    """Make a function raise SourceError, with cause and fix, in place of PermissionError."""

    @wraps(opener)
    def explained(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Source:
        try:
            return opener(*args, **kwargs)
        except PermissionError as error:
            raise SourceError(
                f"{error.filename}: cannot be read ({error.strerror}).\n"
                f"  Cause: {why_not_readable(Path(error.filename))}\n"
                f"  Fix:   have its permissions changed."
            ) from error

    return explained


@_permissions_explained
def open_source(
    location: Location,
    *,
    kind: Kind = "auto",
    labels: Literal["auto", "none"] = "auto",
    image_key: Sequence[str] | None = None,
    label_key: str | None = None,
    tile: TileConfig | None = None,
    scratch: Scratch | None = None,
) -> Source:
    """Return the source at `location`, without opening an image.

    Args:
        location: a folder of images; a single picture; a list (.txt, .csv, .tsv); a Parquet or tar
            file, or a folder that holds such files directly. Files that this program wrote into a
            folder do not count. On an object store, braces may stand for several tar or Parquet
            files.
        kind: the kind that is required; auto decides by the names, but is geotiff if `tile` is
            given: a folder of .tif files may also be one of pictures.
        labels: none ignores the labels of the source.
        image_key: for tar shards, the extensions of the pictures to take; for Parquet files, the
            column of the images. None: decided by the names.
        label_key: for tar shards, the key of the label in JSON members; for Parquet files, the
            column of the labels. None: decided by the names.
        tile: for GeoTIFF scenes, how they are cut. None: as `TileConfig` does by default.
        scratch: where tar and Parquet files of an object store are downloaded to. None: the
            system's folder for temporary files.

    Raises:
        SourceError: the location does not exist, is of a different kind, or could be of several.
        ConfigError: `image_key` or `label_key` is given, but the source has neither samples nor
            columns; or `tile` is given, but it has no scenes.
    """
    if kind == "auto" and tile is not None:
        kind = "geotiff"
    wanted = Wanted(labels == "auto", image_key, label_key, tile)
    if isinstance(location, StoreUrl):
        return open_stored(location, kind, wanted, scratch or Scratch())
    # A single picture is a kind only for auto, since nobody needs to name it.
    if kind == "auto" and is_image_name(location.name) and location.is_file():
        return PictureSource(location)
    if kind == "auto":
        kind = _kind_of(location)
    else:
        _check_location(location)
    wanted.check_has_effect(location, kind, has_samples=SOURCES[kind].has_samples)
    return SOURCES[kind].open(location, wanted)


def has_samples(location: Location) -> bool:
    """Return whether `location` holds images in tar or Parquet files, where `image_key` applies.

    Raises:
        SourceError: raised by `open_source`.
    """
    if isinstance(location, StoreUrl):
        return isinstance(open_source(location), ResumableSource)
    return not is_image_name(location.name) and SOURCES[_kind_of(location)].has_samples


def has_scenes(location: Location) -> bool:
    """Return whether `location` is a .tif file, or a folder that holds some, on this machine."""
    if isinstance(location, StoreUrl):
        return False
    if location.is_dir():
        return any(is_scene_name(name) for name in walk_images(location))
    return is_scene_name(location.name)


def _check_location(location: Path) -> None:
    """Raise SourceError unless `location` exists and may hold images of a user."""
    # A URL does not exist as a path either, but needs its own explanation.
    if not location.exists():
        check_is_local(location)
        raise SourceError(
            f"{location}: does not exist{missing_hint(location)}.\n"
            f"  Fix: give the folder, list (.txt, .csv, .tsv), .parquet or .tar file of the images."
        )
    made_by_us = kind_of_folder(location) if location.is_dir() else None
    if made_by_us in NEVER_IMAGES:
        raise SourceError(
            f"{location}: is an {made_by_us} of this program, not a folder of images.\n"
            f"  Fix: give the folder or file that the images are in."
        )


def _kind_of(location: Path) -> KindName:
    _check_location(location)
    if location.is_dir():
        return _kind_of_folder(location)
    return _kind_of_file(location)


def _kind_of_file(file: Path) -> KindName:
    name = file.name.lower()
    for kind, source in SOURCES.items():
        if name.endswith(source.suffixes):
            return kind
    known: list[str] = []
    for source in SOURCES.values():
        known.extend(source.suffixes)
    raise _nothing_found(file, f"a folder, or a file ending in {', '.join(known)}")


def _kind_of_folder(folder: Path) -> KindName:
    """Return the only kind of which a folder has files.

    Shards count only directly in the folder, images at any depth.
    """
    found: list[KindName] = []
    for kind, source in SOURCES.items():
        first_file = next(source.files_in(folder), None)
        if first_file:
            found.append(kind)
    if len(found) > 1:
        raise several_kinds(folder, _survey(folder), found)
    # Beside images, a compressed tar file is what they were unpacked from.
    if not found and any(_packed_tar_files(folder)):
        return "tar"
    if not found:
        raise _nothing_found(
            folder, "images at any depth, or .parquet, .tar or .tar.gz files directly in it"
        )
    return found[0]


def _open_folder(location: Path, wanted: Wanted) -> Source:
    if not location.is_dir() or next(walk_images(location), None) is None:
        raise _nothing_found(location, "a folder that holds images")
    return FolderSource(location, with_labels=wanted.with_labels)


def _open_list(location: Path, wanted: Wanted) -> Source:
    if not location.is_file():
        raise _nothing_found(location, "a file that lists images")
    return ListSource(location, with_labels=wanted.with_labels)


def _open_parquet(location: Path, wanted: Wanted) -> Source:
    if location.is_file():
        root = location.parent
        files = [location]
    else:
        root = location
        files = sorted_by_name(root, _parquet_files(root))
    if not files:
        raise _nothing_found(location, ".parquet files directly in it, or in partitions")
    return ParquetSource(
        root.absolute(),
        {file.relative_to(root).as_posix(): file.absolute() for file in files},
        with_labels=wanted.with_labels,
        image_key=wanted.image_key,
        label_key=wanted.label_key,
    )


def _open_tar(location: Path, wanted: Wanted) -> Source:
    files = [location]
    if not location.is_file():
        # Beside a tar file, a compressed one is what it was unpacked from.
        files = sorted_by_name(location, _tar_files(location)) or sorted_by_name(
            location, _packed_tar_files(location)
        )
    if not files:
        raise _nothing_found(location, ".tar or .tar.gz files directly in it")
    return TarSource(
        LocalShards([file.absolute() for file in files]),
        with_labels=wanted.with_labels,
        image_key=wanted.image_key,
        label_key=wanted.label_key,
    )


def _open_geotiff(location: Path, wanted: Wanted) -> Source:
    found: FolderSource | ListSource | PictureSource
    if location.is_dir():
        found = FolderSource(location, with_labels=wanted.with_labels, is_wanted=is_scene_name)
        if not has_scenes(location):
            raise _nothing_found(location, "a folder that holds .tif files")
    elif is_scene_name(location.name):
        found = PictureSource(location)
    elif location.suffix.lower() in SOURCES["list"].suffixes:
        found = ListSource(location, with_labels=wanted.with_labels)
    else:
        raise _nothing_found(location, "a folder, a list, or a file ending in .tif")
    folder = found.originals
    if folder is None:
        raise SourceError(
            f"{location}: lists scenes on an object store, but they are read where they are "
            f"needed, a window at a time.\n"
            f"  Fix: copy the scenes here, and list their paths."
        )
    return GeotiffSource(found, folder, wanted.tile or TileConfig())


def sorted_by_name(root: Path, files: Iterator[Path]) -> list[Path]:
    """Return files in the order of the bytes of their names relative to `root`."""
    return sorted(files, key=lambda file: os.fsencode(file.relative_to(root)))


def _parquet_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in its partitions, which are folders `column=value`."""
    yield from _files_ending(folder, ".parquet")
    for below in folder.iterdir():
        has_right_name = "=" in below.name and not is_hidden(below.name)
        if has_right_name and below.is_dir():
            yield from _parquet_files(below)


def _tar_files(folder: Path) -> Iterator[Path]:
    return _files_ending(folder, ".tar")


def _packed_tar_files(folder: Path) -> Iterator[Path]:
    return _files_ending(folder, *PACKED_TAR)


def _no_files(_folder: Path) -> Iterator[Path]:
    return iter(())


def _files_ending(folder: Path, *suffixes: str) -> Iterator[Path]:
    for file in folder.iterdir():
        has_right_name = file.name.lower().endswith(suffixes) and not is_hidden(file.name)
        if not has_right_name or not file.is_file():
            continue
        # Tables of this program are Parquet files too, but hold no images.
        if ".parquet" in suffixes and is_own_table(file):
            continue
        yield file


def _nothing_found(location: Path, wanted: str) -> SourceError:
    """Return the error for a location without images, with what it holds and a likely fix."""
    fix = "give the folder or file that the images are in"
    # Describe what is there instead.
    if location.is_dir():
        files = location.iterdir()
        found = _survey(location)
        if left_out := _left_out(location):
            found += f", of which this program's own results do not count ({left_out})"
        # Shards count only directly in a folder, and may be one level too deep.
        shard = next(_shards_below(location), None)
        if shard is not None:
            shard_folder = displayed(str(shard.parent))
            fix = f"give the folder that the shards are in: {shard_folder}"
    else:
        files = [location]
        found = "a single file"
        if not location.suffix:
            fix += "; a picture without an extension has to be in a list (.txt), by its path"
    for file in files:
        if file.suffix.lower() in COMPRESSED:
            name = displayed(file.name)
            fix += f"; compressed tar files must be unpacked first, for example: tar -xf {name}"
            break
    return SourceError(f"{location}: looked for {wanted}; found {found}.\n  Fix: {fix}.")


def _shards_below(folder: Path) -> Iterator[Path]:
    """Yield the Parquet and tar files among the first files at any depth."""
    suffixes: set[str] = set()
    for kind in SOURCES.values():
        if kind.has_samples:
            suffixes.update(kind.suffixes)
    for file in islice(_files_below(folder), SURVEYED_FILES):
        if file.name.lower().endswith(tuple(suffixes)) and not is_own_table(file):
            yield file


def _files_below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            yield Path(place, name)


def _left_out(folder: Path) -> str:
    """Return the names of the first folders of this program's results in a folder."""
    left_out: list[str] = []
    deque(walk_images(folder, left_out), maxlen=0)  # only to fill `left_out`
    return listed(left_out)


def _survey(folder: Path) -> str:
    """Return a summary of the files at any depth: `12 .parquet (in data), 1 .md`."""
    counts: Counter[str] = Counter()
    places: dict[str, str] = {}
    for file in islice(_files_below(folder), SURVEYED_FILES):
        suffix = file.suffix.lower() or "without extension"
        counts[suffix] += 1
        # The place of the first file of a kind is enough for a hint.
        place = file.parent.relative_to(folder).as_posix()
        places.setdefault(suffix, place)
    if not counts:
        return "no files"
    # The most frequent kinds, in an order that does not depend on the file system.
    by_count = sorted(counts.items(), key=lambda found: (-found[1], found[0]))
    parts: list[str] = []
    for suffix, count in by_count[:6]:
        place = places[suffix]
        where = "" if place == "." else f" (in {place})"
        parts.append(f"{count} {suffix}{where}")
    return displayed(", ".join(parts))


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: how it is recognised, and how it is opened."""

    open: Callable[[Path, Wanted], Source]
    """Opens a location."""
    suffixes: tuple[str, ...] = ()
    """Extensions of the files of this kind."""
    files_in: Callable[[Path], Iterator[Path | str]] = _no_files
    """Returns the files in a folder that make the folder a source of this kind."""
    has_samples: bool = False
    """Whether images are chosen from samples or columns, so that `image_key` applies."""


# In the order in which messages name the kinds.
SOURCES: dict[KindName, SourceKind] = {
    "parquet": SourceKind(_open_parquet, (".parquet",), _parquet_files, has_samples=True),
    "tar": SourceKind(_open_tar, (".tar", *PACKED_TAR), _tar_files, has_samples=True),
    "list": SourceKind(_open_list, (".txt", ".csv", ".tsv", ".lst")),
    "folder": SourceKind(_open_folder, files_in=walk_images),
    # Never recognised: a folder of .tif files is one of pictures unless the recipe says otherwise.
    "geotiff": SourceKind(_open_geotiff),
}
