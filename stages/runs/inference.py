"""Apply the network and the clusters of a run to images that the run has never seen.

Such an image is processed like the run's own: decoded, packed, resized and cropped, and its feature
is rounded to the number format that the run stores.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import deep_rule
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_clustering
from deepcluster_core.clustering.assign import Assigner
from deepcluster_core.clustering.registry import find_clusterer
from deepcluster_core.data.decode import decode
from deepcluster_core.data.deep_scales import DeepRule
from deepcluster_core.data.sources import (
    Kind,
    Source,
    SourceImage,
    has_samples,
    has_scenes,
    open_source,
)
from deepcluster_core.data.sources.stack_pages import pages_as_images
from deepcluster_core.data.views import center_view
from deepcluster_core.device_feed.central import CentralCrops
from deepcluster_core.errors import ConfigError
from deepcluster_core.models.network import Network
from deepcluster_core.new_images import Forward, Pixels, Skip, features_of
from deepcluster_core.store_urls import Location, are_same
from deepcluster_core.suggestions import did_you_mean
from stages.runs.past_run import PastRun
from stages.runs.recipe import Recipe
from stages.runs.run_images import clustered_by

FeatureBatches = Iterator[tuple[list[str], NDArray[np.floating]]]
"""Batches of paths and features (B, D)."""


def open_images(
    recipe: Recipe, source: Location, kind: str | None, image_key: Sequence[str] | None
) -> Source:
    """Open a source. The run's own source is opened as in the run, but with all its images.

    Raises:
        ConfigError: the kind is unknown.
        SourceError: the source cannot be found or read.
    """
    known = get_args(Kind)
    if kind is not None and kind not in known:
        raise ConfigError(
            f"unknown --kind {kind}; choose from {', '.join(known)}"
            f"{did_you_mean(kind, known) or '.'}"
        )
    dataset = recipe.dataset
    is_own = are_same(source, dataset.source)
    if kind is None:
        kind = dataset.kind if is_own else "auto"
        # Other scenes are cut as those of the run; --kind folder takes them as whole pictures.
        if dataset.has_scenes and (is_own or has_scenes(source)):
            kind = "geotiff"
    tile = dataset.tile if kind == "geotiff" else None
    # The key of the recipe also applies to other sources whose samples hold several pictures.
    if image_key is None and dataset.image_keys:
        if is_own or has_samples(source):
            image_key = dataset.image_keys
    return open_source(
        source,
        kind=cast("Kind", kind),
        labels="none",
        image_key=image_key,
        tile=tile,
        scratch=recipe.download_scratch,
    )


def embed_images(
    past: PastRun,
    images: Iterable[SourceImage],
    network: Network,
    layer: str | None,
    *,
    skip: Skip,
) -> FeatureBatches:
    """Yield paths and features of the images that can be used, as the run computes them.

    Args:
        past: the run.
        images: the images, in any number.
        network: the network, as `PastRun.network` returns it; changed in place.
        layer: a named layer, averaged over space; None for the feature of the paper.
        skip: callback with the path and the reason for each image that cannot be used.
    """
    recipe = past.recipe
    extract = recipe.extract
    deep = _deep_rule(past)
    crops = _fed_crops(recipe) if past.is_fed_on_device else None

    def view(data: bytes) -> Pixels:
        pixels_HWC = _decoded(data, recipe, deep)
        if crops is not None:
            return pixels_HWC
        return center_view(pixels_HWC, resize=extract.resize, size=recipe.network.image_size)

    if recipe.dataset.pages == "all":
        images = pages_as_images(images)
    return features_of(
        network,
        images,
        view,
        Forward(layer, extract.batch_size, past.device, extract.precision, crops),
        skip=skip,
        workers=past.workers,
    )


def _deep_rule(past: PastRun) -> DeepRule:
    """Return how the run has converted values of more than 8 bits.

    Raises:
        ArtifactError: it used percentiles, and the images artifact that holds them is missing.
    """
    deep = past.recipe.dataset.deep
    if deep in ("range", "stretch"):
        return deep
    return deep_rule(past.folder.images(past.recipe.images))


@dataclass(frozen=True)
class Clusters:
    """The clusters of an epoch, and the network whose features were clustered."""

    epoch: int
    labels: Path
    checkpoint: Path | None
    """Checkpoint of the previous epoch; None in the first epoch, which has an untrained network."""
    of_bank: bool
    """Whether the embeddings of training were clustered, and not features that were extracted."""

    @classmethod
    def of(cls, past: PastRun, epoch: int | None) -> "Clusters":
        """Return the clusters of an epoch, or of the last one if `epoch` is None.

        Raises:
            ConfigError: the run does not have the epoch.
            ArtifactError: the labels or the checkpoint are missing.
        """
        past.check_has_network()
        number = past.epoch("labels", epoch)
        labels = past.whole("labels", number)
        # An epoch clusters the features of the network that the epoch before has trained.
        checkpoint = None
        if number > 0:
            checkpoint = past.whole("checkpoints", number - 1)
        kind, _ = clustered_by(past.recipe, number)
        return cls(number, labels, checkpoint, of_bank=kind == "checkpoints")

    def network(self, past: PastRun) -> Network:
        """Return the network whose features were clustered.

        A bank holds embeddings that training computed, with the weights that were trained and not
        with their average.

        Raises:
            ArtifactError: the checkpoint is damaged.
        """
        return past.network(self.checkpoint, averaged=not self.of_bank)

    @property
    def method(self) -> str:
        """The algorithm that found the clusters, and the least size of a cluster, if one is set."""
        settings = self._settings
        least_size = settings.get("least_size")
        beside = "" if least_size is None else f" with least_size = {least_size:g}"
        return settings["algorithm"] + beside

    @property
    def remark(self) -> str | None:
        """Why the run's own images may have other clusters in the run; None if they have the same.

        In the run, an image can belong to a cluster other than that of the nearest mean, and with a
        bank, its place is that of the views that it was trained on.
        """
        settings = self._settings
        is_nearest = find_clusterer(settings["algorithm"]).assigns_to_nearest
        if not is_nearest or settings.get("least_size") is not None:
            return f"clusters of {self.method}: each image goes to that of the nearest mean"
        if self.of_bank:
            return "clusters of views that were trained on: each image goes to that of its center"
        return None

    @property
    def _settings(self) -> dict[str, Any]:
        """The section `cluster` of the recipe with which the clusters were found."""
        return read_manifest(self.labels).config["cluster"]

    def assigner(self, device: str) -> Assigner:
        """Return an assigner, which finds the nearest cluster of a feature.

        Raises:
            ArtifactError: the labels artifact is damaged.
        """
        clustering = read_clustering(self.labels)
        return Assigner.of(clustering, whitened=bool(self._settings["whiten"]), device=device)


def as_stored(features: FeatureBatches, dtype: str) -> FeatureBatches:
    """Yield features rounded as a run rounds them between extracting and clustering."""
    for paths, feature_BD in features:
        with np.errstate(over="ignore"):  # becomes infinite, which the assigner rejects
            yield paths, feature_BD.astype(dtype)


def _fed_crops(recipe: Recipe) -> CentralCrops:
    """Return the crops that a device makes, as in the extraction of the run."""
    dataset = recipe.dataset
    channels = 1 if dataset.encoding == "grey" else dataset.channels
    return CentralCrops(recipe.network, channels, recipe.extract.resize)


def _decoded(data: bytes, recipe: Recipe, deep: DeepRule) -> Pixels:
    """Return the pixels (H, W, C) of a picture, equal to those of an image of the run."""
    dataset = recipe.dataset
    pixels_HWC = decode(
        data,
        channels=dataset.channels,
        shorter_side=dataset.shorter_side,
        deep=deep,
        pages=dataset.pages,
    ).pixels_HWC
    return dataset.packing.read_back(pixels_HWC)
