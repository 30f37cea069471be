"""Put the images of a run into a folder for each cluster.

Suffixes: N images, M members of a cluster.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.image_tables import image_table
from deepcluster_core.artifacts.images import ShownImages
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.data.encode import encode_png
from deepcluster_core.data.shown_bands import band_problem
from deepcluster_core.errors import ConfigError
from deepcluster_core.progress import Progress, silent
from deepcluster_core.text import readable_size
from stages.runs.cluster_names import names_at
from stages.runs.image_facts import ImageFacts
from stages.runs.outputs.origin import origin
from stages.runs.past_run import PastRun

How = Literal["copy", "link", "list"]
TABLE = "images.parquet"
"""File in the folder that lists all images in it."""
COLUMNS = ("image_id", "path", "cluster", "cluster_name", "distance", "file")
MAX_BYTES = 120
"""Limit on the part of a file's name that comes from a name; file systems allow 255 in all."""


@dataclass(frozen=True)
class SortRequest:
    """Which images to sort, and how."""

    how: How = "copy"
    per_cluster: int | None = None
    """Largest number of images of a cluster; None for all."""
    farthest: bool = False
    """Take those farthest from the centroid first, not the nearest."""
    bands: tuple[int, ...] | None = None
    """Write pictures of these channels of the packed pixels, from 1, in place of the files; one
    channel, or three for red, green and blue. None: the files; for images without one,
    `report.bands`."""


@dataclass(frozen=True)
class Sorted:
    """What `sort_images` has written."""

    epoch: int
    num_images: int
    num_clusters: int
    num_decoded: int
    """Number of images without an original file of their own, written from the packed pixels."""
    decoded_kinds: Sequence[str]
    """Suffixes of the files of these: .png, or .npy for other than 1 or 3 channels."""


def sort_images(
    past: PastRun,
    out: Path,
    request: SortRequest,
    *,
    epoch: int | None = None,
    progress: Progress = silent,
) -> Sorted:
    """Write a folder, or a list, of images for each cluster that has some.

    A file is called by the number of its image and its name in the source, so that no two have one
    name. The folder appears when it is complete.

    Args:
        past: the run.
        out: folder to create; an empty one may exist.
        request: which images, and how.
        epoch: epoch of the clusters; the last one if left out.
        progress: receives the number of images written.

    Raises:
        ConfigError: `out` holds something, or lies in the run or its source; or the epoch or one of
            the bands does not exist.
        ArtifactError: an artifact is missing or damaged, or the disk is full.
    """
    facts = ImageFacts.of(past, epoch)
    originals = _originals(facts)
    _check_folder(past, out, originals)
    if request.bands is not None:
        _check_bands(request.bands, facts.images.num_bands)
        originals = None  # pictures are made even of files that exist
    chosen = [*_members(facts, request)]
    names = {number: one.name for number, one in names_at(past.folder, facts.epoch).items()}
    with _whole_folder(out) as part:
        writer = _Writer(facts, originals, part, request)
        if request.how == "copy":
            _check_space(out, writer.originals_of(np.concatenate(chosen)))
        about = origin(past, out / TABLE, labels=past.whole("labels", facts.epoch))
        about["command"] = "sort"
        total = sum(map(len, chosen))
        with image_table(part / TABLE, COLUMNS, about, suffix=".parquet") as table:
            for cluster, member_M in enumerate(chosen):
                if not len(member_M):
                    continue
                place = cluster_place(cluster, k=len(chosen), name=names.get(cluster))
                files = writer.write(place, member_M, total, progress)
                table.add(_rows(facts, cluster, names.get(cluster), member_M, files))
    num_clusters = sum(1 for member_M in chosen if len(member_M))
    kinds = sorted(writer.decoded_kinds)
    return Sorted(facts.epoch, total, num_clusters, writer.num_decoded, kinds)


def cluster_place(cluster: int, *, k: int, name: str | None) -> str:
    """Return the name of a cluster's folder, such as 007-cats; numbers sort as text."""
    digits = len(str(k - 1))
    place = f"{cluster:0{digits}}"
    return f"{place}-{safe_name(name)}" if name else place


def safe_name(name: str) -> str:
    """Return a name in the characters that every file system and archive keeps.

    Letters of all scripts stay. Others, such as slashes, colons and spaces, become underscores.
    """
    kept = "".join(one if one.isalnum() or one in "-_." else "_" for one in name)
    return kept.encode()[:MAX_BYTES].decode(errors="ignore").strip(".") or "_"


def _members(facts: ImageFacts, request: SortRequest) -> Iterator[NDArray[np.int64]]:
    """Yield the image_ids of each cluster that are wanted, in the order of their distance."""
    labels = facts.labels
    distance_N = -labels.distance_N if request.farthest else labels.distance_N
    # By cluster, then distance; equal distances in the order of image_id.
    order_N = np.lexsort((distance_N, labels.cluster_N))
    ends_K = np.searchsorted(labels.cluster_N[order_N], np.arange(labels.k + 1))
    for start, end in pairwise(ends_K.tolist()):
        yield order_N[start:end][: request.per_cluster]


def _rows(
    facts: ImageFacts, cluster: int, name: str | None, member_M: NDArray[np.int64], files: list[str]
) -> dict[str, object]:
    paths = facts.images.paths()
    return {
        "image_id": member_M,
        "path": [paths[int(image_id)].as_py() for image_id in member_M],
        "cluster": np.full(len(member_M), cluster, np.int32),
        "cluster_name": [name] * len(member_M),
        "distance": facts.labels.distance_N[member_M],
        "file": files,
    }


class _Writer:
    """Writes images of a run into folders."""

    def __init__(
        self, facts: ImageFacts, originals: Path | None, out: Path, request: SortRequest
    ) -> None:
        bands = request.bands or facts.images.bands
        self._images = ShownImages(facts.images.folder, bands)
        self._paths = facts.images.paths()
        self._originals = originals
        self._out = out
        self._how: How = request.how
        self._digits = len(str(len(facts.images) - 1))
        self._num_written = 0
        self.num_decoded = 0
        self.decoded_kinds: set[str] = set()

    def write(
        self, place: str, member_M: NDArray[np.int64], total: int, progress: Progress
    ) -> list[str]:
        """Write the images of a cluster; return their files, relative to the folder of all."""
        if self._how == "list":
            return self._list(place, member_M)
        (self._out / place).mkdir()
        files: list[str] = []
        for image_id in member_M.tolist():
            files.append(f"{place}/{self._write(self._out / place, image_id)}")
            self._num_written += 1
            progress(self._num_written, total)
        return files

    def originals_of(self, image_ids: NDArray[np.int64]) -> Iterator[Path]:
        """Yield the original files of images that have one."""
        for image_id in image_ids.tolist():
            original = self._original(image_id)
            if original is not None:
                yield original

    def _list(self, place: str, member_M: NDArray[np.int64]) -> list[str]:
        """Write a list of the original files, or of paths in a source that is no folder."""
        paths: list[str] = []
        for image_id in member_M.tolist():
            original = self._original(image_id)
            paths.append(str(original or self._paths[image_id].as_py()))
        text = "".join(f"{path}\n" for path in paths)
        (self._out / f"{place}.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
        return [f"{place}.txt"] * len(paths)

    def _write(self, folder: Path, image_id: int) -> str:
        """Write an image as a file of a folder; return the file's name."""
        path = self._paths[image_id].as_py()
        number = f"{image_id:0{self._digits}}"
        original = self._original(image_id)
        if original is None:
            file = folder / f"{number}-{safe_name(_stem(path))}"
            name = write_pixels(self._images.verified(image_id), file)
            self.num_decoded += 1
            self.decoded_kinds.add(Path(name).suffix)
            return name
        stem = safe_name(original.stem)
        file = folder / f"{number}-{stem}{original.suffix}"
        if self._how == "link" and _link(original, file):
            return file.name
        shutil.copyfile(original, file)
        return file.name

    def _original(self, image_id: int) -> Path | None:
        """Return the original file of an image, if the source has files that still exist."""
        if self._originals is None:
            return None
        original = self._originals / self._paths[image_id].as_py()
        return original if original.is_file() else None


def _stem(path: str) -> str:
    """Return the name of an image without its suffix; of a page or window, with its place."""
    name, _, place = Path(path).name.partition("#")
    return f"{Path(name).stem}-{place}" if place else Path(name).stem


def _link(original: Path, file: Path) -> bool:
    """Make a file a hard link to an original; return whether that is possible.

    It is not on another file system, on one without links, or for files of other users.
    """
    try:
        # Resolved, because a link to a relative link would point to nothing from here.
        file.hardlink_to(original.resolve())
    except OSError:
        return False
    return True


def write_pixels(pixels_HWC: NDArray[np.uint8], file: Path) -> str:
    """Write pixels as PNG or, if that does not hold their channels, as an array; return the name.

    Args:
        pixels_HWC: packed pixels.
        file: path of the file without its suffix.
    """
    if pixels_HWC.shape[2] in (1, 3):
        name = f"{file.name}.png"
        file.with_name(name).write_bytes(encode_png(pixels_HWC))
    else:
        name = f"{file.name}.npy"
        np.save(file.with_name(name), pixels_HWC)
    return name


def _originals(facts: ImageFacts) -> Path | None:
    """Return the folder that the paths of the images are relative to, if it still exists."""
    originals = facts.images.originals
    return originals if originals is not None and originals.is_dir() else None


def _check_bands(bands: Sequence[int], channels: int) -> None:
    """Raise ConfigError unless the images have these bands, and a picture can show them."""
    problem = band_problem(bands, channels)
    if problem is not None:
        given = ",".join(map(str, bands))
        raise ConfigError(f"--bands {given}: {problem.cause}.\n  Fix: {problem.fix}.")


def _check_folder(past: PastRun, out: Path, originals: Path | None) -> None:
    """Raise ConfigError if `out` cannot become the folder of the sorted images."""
    place = out.absolute().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"--out {out}: exists and is not empty.\n  Fix: choose a different --out, or delete it."
        )
    if out.is_symlink() or out.is_mount():
        # The folder is written beside `out` and renamed when it is complete.
        kind = "a link" if out.is_symlink() else "a mount point"
        raise ConfigError(
            f"--out {out}: is {kind}, which a complete folder cannot replace.\n"
            f"  Fix: --out {out / 'sorted'}"
        )
    if place.is_relative_to(past.folder.root.resolve()):
        raise ConfigError(f"--out {out}: lies in the run.\n  Fix: give another folder.")
    if originals is not None and place.is_relative_to(originals.resolve()):
        raise ConfigError(
            f"--out {out}: lies in the folder of the images, where the next run would read the "
            f"sorted ones as well.\n  Fix: give another folder."
        )


def _check_space(out: Path, files: Iterable[Path]) -> None:
    """Raise ConfigError if the disk does not have room for copies of files."""
    needed = 0
    for file in files:
        with suppress(OSError):
            needed += file.stat().st_size
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"--out {out}: copies take {readable_size(needed)}, but {readable_size(free)} are "
            f"free.\n  Fix: --link takes no room on the disk of the images; --per-cluster N takes "
            f"fewer."
        )


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `out` when the block succeeds.

    What an attempt that was killed has left is deleted first.
    """
    part = out.absolute().with_name(f".{out.name}.part")
    with explain_resource_errors(part.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        if part.exists():
            shutil.rmtree(part)
        part.mkdir()
        try:
            yield part
            if out.exists():
                out.rmdir()
            part.rename(out)
        finally:
            if part.exists():
                shutil.rmtree(part)
