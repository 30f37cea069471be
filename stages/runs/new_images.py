"""Compute the clusters and the features of images that a run has never seen."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.about_files import about_of_csv, beside, write_about
from deepcluster_core.artifacts.outputs import (
    FeaturesArray,
    FeaturesTable,
    LabelsTable,
    SkippedTable,
    whole_files,
)
from deepcluster_core.artifacts.plain_outputs import FeaturesCsv, FeaturesNpy, LabelsArray
from deepcluster_core.config import FeatureDtype
from deepcluster_core.data.sources import Source
from deepcluster_core.errors import SourceError
from deepcluster_core.models.network import Network
from deepcluster_core.progress import Progress
from deepcluster_core.store_urls import Location
from deepcluster_core.text import counted, printable_lines
from stages.runs.inference import Clusters, FeatureBatches, as_stored, embed_images, open_images
from stages.runs.machine import remarks
from stages.runs.outputs.origin import origin
from stages.runs.past_run import PastRun
from stages.runs.progress import bar, lines
from stages.runs.terminal import plain_console

CONSOLE = plain_console()
LABELS_SUFFIXES = (".parquet", ".csv", ".npy")
FEW = 100
"""Fewer images than this have no pace."""
FEATURES_SUFFIXES = (".zarr", ".parquet", ".csv", ".npy")


def assign(
    run: str,
    source: Location,
    *,
    out: Path,
    epoch: int | None = None,
    kind: str | None = None,
    image_key: Sequence[str] | None = None,
) -> None:
    """Write a table with the clusters and distances of images, in the columns of a run's labels.

    The clusters of an epoch are found in features of the network before its training. The run's own
    images get the clusters that they have in the run, up to ties within float16, unless a remark
    says why not (`Clusters.remark`).

    Args:
        run: folder of the run, or its name under `runs/`.
        source: source of the images, as for `dataset.source`.
        out: a .parquet or .csv table; or a .npy array of the clusters, with the table in
            .index.parquet beside it. Beside each, .skipped.parquet lists the images that cannot be
            used, and beside .csv, .about.json says what it was made from.
        epoch: epoch whose clusters are used; the last one if left out.
        kind: kind of `source`, as for `dataset.kind`.
        image_key: which pictures of a sample to use, as for `dataset.image_key`.

    Raises:
        ConfigError: the run or the epoch does not exist, or a table cannot be written to `out`.
        ArtifactError: the labels or the checkpoint are missing, or `out` exists.
        SourceError: there are no images, or none can be read.
        FeatureError: features are not finite.
    """
    # Check everything before the work begins.
    past = PastRun.open(run)
    clusters = Clusters.of(past, epoch)
    past.check_out(out, LABELS_SUFFIXES)
    images = open_images(past.recipe, source, kind, image_key)
    assigner = clusters.assigner(past.device)
    if (remark := clusters.remark) is not None:
        _say(remark)
    checkpoint = clusters.checkpoint
    about = origin(past, out, labels=clusters.labels, checkpoint=checkpoint)
    about["source"] = str(source)
    with (
        whole_files(*_files(out)) as (table, skipped, *more),
        _reading(past, images, f"assign epoch {clusters.epoch}", skipped, about) as reading,
        _labels_file(table, more, about, out.suffix, len(assigner.centroids)) as written,
    ):
        features = reading.features(clusters.network(past), past.recipe.extract.layer)
        # The run clusters features as they are stored, so these are rounded, too.
        stored = as_stored(features, past.recipe.extract.dtype)
        for paths, cluster_HB, distance_HB in assigner.assign(stored):
            written.add(paths, cluster_HB, distance_HB)
    _say("\n  ".join([reading.summary(out), *images.notes()]))


def embed(
    run: str,
    source: Location,
    *,
    out: Path,
    epoch: int | None = None,
    layer: str | None = None,
    kind: str | None = None,
    image_key: Sequence[str] | None = None,
) -> None:
    """Write the features of images, computed by the network after an epoch's training.

    Args:
        run: folder of the run, or its name under `runs/`.
        source: source of the images, as for `dataset.source`.
        out: a .zarr folder for an array like a run's features, or a .npy file for a NumPy array,
            with the path of each row in .index.parquet beside it; or a .parquet or .csv table of
            both. Beside each, .skipped.parquet lists the images that cannot be used, and beside
            .csv, .about.json says what it was made from.
        epoch: epoch after whose training the network is used; the last one if left out.
        layer: a named layer, such as conv5, averaged over space; the feature that the run clusters
            if left out, or the backbone's where the run clusters its projection.
        kind: kind of `source`, as for `dataset.kind`.
        image_key: which pictures of a sample to use, as for `dataset.image_key`.

    Raises:
        ConfigError: the run, epoch or layer does not exist, or features cannot be written to `out`.
        ArtifactError: the checkpoint is missing, or `out` exists.
        SourceError: there are no images, or none can be read.
    """
    # Check everything before the work begins.
    past = PastRun.open(run)
    epoch, checkpoint = past.trained(epoch)
    past.check_out(out, FEATURES_SUFFIXES)
    layer = past.exported_layer(layer)
    dim = past.dim(layer)
    images = open_images(past.recipe, source, kind, image_key)
    about = origin(past, out, checkpoint=checkpoint) | {"source": str(source), "layer": layer}
    dtype = past.recipe.extract.dtype
    with (
        whole_files(*_files(out)) as (main, skipped, *more),
        _reading(past, images, f"embed epoch {epoch}", skipped, about) as reading,
    ):
        with _features_file(main, more, about, out.suffix, dim=dim, dtype=dtype) as written:
            for paths, feature_BD in reading.features(past.network(checkpoint), layer):
                written.add(paths, feature_BD)
    _say("\n  ".join([reading.summary(out), *images.notes()]))


def _files(out: Path) -> list[Path]:
    """Return the files to write: the output, the skipped images, and what its format lacks."""
    files = [out, beside(out, "skipped")]
    if out.suffix in (".zarr", ".npy"):  # an array has no column for paths
        files.append(beside(out, "index"))
    elif out.suffix == ".csv":  # it has no metadata
        files.append(about_of_csv(out))
    return files


def _labels_file(
    path: Path, more: Sequence[Path], about: dict[str, Any], suffix: str, num_clusterings: int
) -> LabelsTable | LabelsArray:
    """Return the file to write clusters to."""
    if suffix == ".npy":
        return LabelsArray(path, more[0], about, num_clusterings=num_clusterings)
    if suffix == ".csv":
        write_about(more[0], about)
    return LabelsTable(path, about, num_clusterings=num_clusterings, suffix=suffix)


def _features_file(
    path: Path,
    more: Sequence[Path],
    about: dict[str, Any],
    suffix: str,
    *,
    dim: int,
    dtype: FeatureDtype,
) -> FeaturesArray | FeaturesNpy | FeaturesTable | FeaturesCsv:
    """Return the file to write features to."""
    match suffix:
        case ".zarr":
            return FeaturesArray(path, more[0], about, dim=dim, dtype=dtype)
        case ".npy":
            return FeaturesNpy(path, more[0], about, dim=dim, dtype=dtype)
        case ".csv":
            write_about(more[0], about)
            return FeaturesCsv(path, about, dim=dim)
        case _:
            return FeaturesTable(path, about, dim=dim)


@dataclass
class _Reading:
    """Computes features of the images of a source, and tracks the progress."""

    past: PastRun
    source: Source
    skipped: SkippedTable
    progress: Progress
    used: int = 0
    _start: float = field(default_factory=time.monotonic)

    def features(self, network: Network, layer: str | None) -> FeatureBatches:
        """Yield paths and features of the images that can be used, as the run computes them."""
        total = self.source.count()
        images = self.source.images()
        batches = embed_images(self.past, images, network, layer, skip=self.skipped.add)
        for paths, feature_BD in batches:
            self.used += len(paths)
            yield paths, feature_BD
            self.progress(self.used + self.skipped.rows, total)

    def check_any_used(self) -> None:
        """Raise SourceError if there was no image, or none could be read."""
        if self.used > 0:
            return
        if self.skipped.rows == 0:
            raise SourceError("the source holds no images.\n  Fix: give a source with images.")
        examples = "".join(f"\n    {line}" for line in self.skipped.first)
        raise SourceError(
            f"none of {self.skipped.rows} images can be read.{examples}"
            f"{self.skipped.reasons.most_common()}\n"
            f"  Fix: convert or repair them, or check whether dataset.channels of the run fits "
            f"them."
        )

    def summary(self, out: Path) -> str:
        """Return a summary of what was read and written."""
        seconds = time.monotonic() - self._start
        num_skipped = self.skipped.rows
        where = f" (why: {beside(out, 'skipped')})" if num_skipped else ""
        # Of few images, most of the time is the start, so that their pace says nothing.
        pace = f", {self.used / seconds:,.0f} images/s" if self.used >= FEW else ""
        images = counted(self.used, "image")
        return f"{out}: {images}, {num_skipped:,} skipped{where}, {seconds:.1f} s{pace}"


@contextmanager
def _reading(
    past: PastRun, source: Source, title: str, skipped: Path, about: dict[str, Any]
) -> Iterator[_Reading]:
    """Yield the reading of a source, and write the images that cannot be used to `skipped`.

    The table at `skipped` is deleted if all images can be used.
    """
    for text in remarks(past.recipe.compute.device, uses_faiss=False):
        _say(f"warning: {text}")
    if past.asks_for_many_ranks:
        # A batch holds images that can be read, so it is known when all before it have been read.
        # Other batches would have other last digits.
        _say(f"{title} runs on one rank")
    with _shown(title) as progress, SkippedTable(skipped, about) as left_out:
        reading = _Reading(past, source, left_out, progress)
        yield reading
        # Without a single usable image, the caller's output is discarded.
        reading.check_any_used()
    if left_out.rows == 0:
        skipped.unlink()


@contextmanager
def _shown(title: str) -> Iterator[Progress]:
    """Show progress as a bar on a terminal, elsewhere as a line now and then."""
    if CONSOLE.is_terminal:
        with bar(title, CONSOLE) as progress:
            yield progress
    else:
        yield lines(title, _say)


def _say(text: str) -> None:
    CONSOLE.print(printable_lines(text), markup=False)
