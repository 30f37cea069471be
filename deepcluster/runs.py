"""A run in Python: tables as pandas frames, features as arrays, networks as torch modules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepcluster.images import Arrays, images_of
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import in_clustering
from deepcluster_core.artifacts.images import Images, ShownImages
from deepcluster_core.artifacts.tables import label_frame, read_metrics
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.errors import SourceError
from deepcluster_core.inspection.layout import LayoutMethod
from deepcluster_core.models.network import Network
from deepcluster_core.store_urls import typed_location
from stages.runs.image_facts import ImageFacts
from stages.runs.inference import Clusters, as_stored, embed_images, open_images
from stages.runs.locate import run_folder_of
from stages.runs.outputs.image_table import image_frame
from stages.runs.past_run import PastRun
from stages.runs.recipe import Recipe
from stages.runs.remote_runs import look_again

Given = str | Path | Arrays
"""Images: the path or URL of a source, or their pixels."""


class Embedding(NamedTuple):
    """Features of images."""

    paths: list[str]
    """Paths of the images relative to the source, or the numbers of arrays as text; one per row."""
    features: NDArray[np.floating]
    """Array (N, D) of the type that the run stores, `extract.dtype`: float16 if not set."""
    skipped: dict[str, str]
    """Reasons by the path of each image that cannot be used."""


def open_run(path: str | Path) -> "Run":
    """Open an existing run for reading.

    Args:
        path: folder of the run, its name under `runs/`, or the URL of a run on an object store,
            such as `s3://bucket/runs/demo`.

    Raises:
        ConfigError: the run does not exist, or its configuration cannot be read.
        StoreError: the object store is not available.
    """
    look_again(str(path))
    past_run = PastRun.open(run_folder_of(Path(path)))
    return Run(past_run)


@dataclass(frozen=True, repr=False)
class Run:
    """A run as it was when it was opened. Epochs count from 0; None stands for the last one."""

    past: PastRun
    """The run as the commands of the command line use it."""

    def __repr__(self) -> str:
        return f"<deepcluster run {self.folder}, {len(self.epochs)} epochs>"

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.past.folder.root

    @property
    def recipe(self) -> Recipe:
        """The whole configuration of the run."""
        return self.past.recipe

    @property
    def epochs(self) -> list[int]:
        """The finished epochs."""
        return self.past.scored()

    def labels(self, epoch: int | None = None) -> pd.DataFrame:
        """Return the clusters of an epoch: a row for each image, in the order of image_id.

        Returns:
            Columns `image_id` (int64), `path`, `cluster` (int32, 0 to k - 1) and `distance`
            (float32, to the cluster's centroid); of further clusterings, `cluster_1`, `distance_1`
            and so on; if the images have true labels, also `true_label`.

        Raises:
            ConfigError: the run does not have the epoch.
            ArtifactError: the labels are missing or damaged.
        """
        number = self.past.epoch("labels", epoch)
        clusters = self.past.whole("labels", number)
        frame = label_frame(clusters, self._images)
        # The order of the images is that of image_id in both.
        class_N, names = Images(self._images).named_labels()
        if names:
            frame["true_label"] = pd.Categorical.from_codes(class_N, list(names))
        return frame

    def table(
        self,
        epoch: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        layout: LayoutMethod = "pca",
    ) -> pd.DataFrame:
        """Return what is known about each image at an epoch, as `deepcluster table` writes it.

        Args:
            epoch: the epoch.
            columns: columns, in order; those of the command if left out: clusters and their names,
                distance, second cluster, stability, outlier score, nearest image, place on a map
                (x, y), label.
            layout: how the map is made, pca or umap.

        Raises:
            ConfigError: the run does not have the epoch, or the column does not exist.
            ArtifactError: labels are missing or damaged, or columns need features that were deleted
                to save space (`keep.features` of the recipe; from epoch 1 on,
                `keep.checkpoints` with `train.prototypes.bank`).
        """
        return image_frame(ImageFacts.of(self.past, epoch), columns, layout)

    def metrics(self) -> pd.DataFrame:
        """Return a row for each finished epoch: `epoch`, `loss`, `nmi_labels` and many more.

        Raises:
            ArtifactError: the metrics of an epoch are damaged.
        """
        rows: list[dict[str, Any]] = []
        for epoch in self.epochs:
            metrics = read_metrics(self.past.folder.artifact("metrics", epoch))
            rows.append({"epoch": epoch} | metrics)
        return pd.DataFrame(rows)

    def features(self, epoch: int | None = None) -> NDArray[np.floating]:
        """Return the features that an epoch clustered, computed before the training of that epoch.

        Returns:
            An array (N, D) of the recipe's `extract.dtype`; row i belongs to image_id i. With
            `train.prototypes.bank`, from epoch 1 on, a row holds the embeddings of all views that
            the training of the epoch before computed, one after another. With `extract.pca`, D is
            its number of principal components, each scaled to variance one.

        Raises:
            ConfigError: the run does not have the epoch.
            ArtifactError: the features are missing or damaged, or were deleted to save space
                (`keep.features` of the recipe; from epoch 1 on, `keep.checkpoints` with
                `train.prototypes.bank`).
        """
        has_bank = self.recipe.train.has_bank
        number = self.past.epoch("labels" if has_bank else "features", epoch)
        blocks = list(Features(self.past.clustered(number)).blocks())
        return np.concatenate(blocks)

    def network(self, epoch: int | None = None) -> Network:
        """Return the network after an epoch's training, on the CPU and in training mode.

        It takes images (B, C, S, S) of uint8 pixels, as described at `build_network`.

        Raises:
            ConfigError: the run does not have the epoch.
            ArtifactError: the checkpoint is missing or damaged.
        """
        return self.past.network(self._checkpoint(epoch))

    def image(self, image_id: int) -> NDArray[np.uint8]:
        """Return the pixels (H, W, C) of an image of the run, as it was packed.

        With `dataset.encoding: grey` it is the copy in colour, if the run keeps copies.

        Raises:
            IndexError: the run does not have the image.
            ArtifactError: the packed image is damaged.
        """
        images = ShownImages(self._images)
        if not 0 <= image_id < len(images):
            raise IndexError(f"image_id {image_id}: the run has images 0 to {len(images) - 1}")
        return images[image_id]

    def embed(
        self, images: Given, *, epoch: int | None = None, layer: str | None = None
    ) -> Embedding:
        """Return the features of any images, computed by the network after an epoch's training.

        Args:
            images: a picture, folder, list, Parquet files or tar shards, by path or URL, as
                `dataset.source` of a recipe takes them; or uint8 pixels (N, H, W, C), or a list of
                arrays (H, W, C).
            epoch: epoch after whose training the network is used.
            layer: a named layer, such as `conv5`, averaged over space; the feature that the run
                clusters if left out, or the backbone's where the run clusters its projection.

        Raises:
            ConfigError: the run does not have the epoch, or its network does not have the layer.
            ArtifactError: the checkpoint is missing or damaged.
            SourceError: there are no images, or none can be used.
        """
        checkpoint = self._checkpoint(epoch)
        extract = self.recipe.extract
        layer = self.past.exported_layer(layer)
        self.past.dim(layer)  # raises ConfigError before any image is read
        found = _Found(self.past, images)
        network = self.past.network(checkpoint)
        batches = embed_images(self.past, found.images(), network, layer, skip=found.skip)
        paths: list[str] = []
        blocks: list[NDArray[np.floating]] = []
        for some_paths, feature_BD in as_stored(batches, extract.dtype):
            paths += some_paths
            blocks.append(feature_BD)
        # Before the blocks are joined, which fails for an empty list.
        found.check_any_used(used=len(paths))
        return Embedding(paths, np.concatenate(blocks), found.skipped)

    def assign(self, images: Given, *, epoch: int | None = None) -> pd.DataFrame:
        """Return the nearest cluster of each of any images.

        The run's own images get the clusters that they have in the run, unless it clusters with
        `pic`, `python:`, `least_size` or `train.prototypes.bank`.

        Args:
            images: a source or pixels, as for `embed`.
            epoch: epoch whose clusters are used.

        Returns:
            A row for each image that can be used, with the columns `path` (for arrays, their number
            as text), `cluster` (int32) and `distance` (float32); of further clusterings, also
            `cluster_1`, `distance_1` and so on. `attrs["skipped"]` has the reasons by path for the
            images that cannot be used.

        Raises:
            ConfigError: the run does not have the epoch.
            ArtifactError: labels or checkpoint are missing or damaged.
            SourceError: there are no images, or none can be used.
            FeatureError: features are not finite.
        """
        clusters = Clusters.of(self.past, epoch)
        extract = self.recipe.extract
        found = _Found(self.past, images)
        features = embed_images(
            self.past,
            found.images(),
            clusters.network(self.past),
            extract.layer,
            skip=found.skip,
        )
        assigner = clusters.assigner(self.past.device)
        # Rounded to the stored type first, so that the run's own images get their own clusters.
        stored = as_stored(features, extract.dtype)
        frames: list[pd.DataFrame] = []
        for paths, cluster_HB, distance_HB in assigner.assign(stored):
            columns: dict[str, Any] = {"path": paths}
            for head, (cluster_B, distance_B) in enumerate(
                zip(cluster_HB, distance_HB, strict=True)
            ):
                columns[in_clustering("cluster", head)] = cluster_B
                columns[in_clustering("distance", head)] = distance_B
            frames.append(pd.DataFrame(columns))
        num_used = sum(len(frame) for frame in frames)
        found.check_any_used(used=num_used)
        table = pd.concat(frames, ignore_index=True)
        table.attrs["skipped"] = found.skipped  # a frame has no other place for it
        return table

    def _checkpoint(self, epoch: int | None) -> Path | None:
        """Return the folder of the network after an epoch's training; None if nothing trains."""
        _, checkpoint = self.past.trained(epoch)
        return checkpoint

    @property
    def _images(self) -> Path:
        """The folder of the packed images, which several runs can share."""
        return self.past.folder.images(self.recipe.images)


class _Found:
    """The images that a caller gave, and those among them that cannot be used."""

    def __init__(self, past: PastRun, given: Given) -> None:
        self._past = past
        self._given = given
        self.skipped: dict[str, str] = {}

    def images(self) -> Iterable[SourceImage]:
        """Return the images, which are read only when they are used."""
        if not isinstance(self._given, str | Path):
            return images_of(self._given)
        place = typed_location(str(self._given))
        source = open_images(self._past.recipe, place, None, None)
        return source.images()

    def skip(self, path: str, reason: str) -> None:
        """Record an image that cannot be used.

        Raises:
            SourceError: the image is an array. Skipping it would shift the rows of the result.
        """
        if not isinstance(self._given, str | Path):
            raise SourceError(f"images: number {path} cannot be used: {reason}.")
        self.skipped[path] = reason

    def check_any_used(self, *, used: int) -> None:
        """Raise SourceError unless an image could be used."""
        if used:
            return
        if not self.skipped:
            raise SourceError("there are no images.\n  Fix: give a source that holds some.")
        # One reason is enough, because it usually applies to all images.
        path, reason = next(iter(self.skipped.items()))
        raise SourceError(
            f"none of {len(self.skipped)} images can be used; the first, {path}: {reason}."
        )
