"""The network and the clusters of a run, applied to images that the run has never seen.

Such an image goes the way of the run's own: decoded, packed, resized, cropped, and its feature
rounded to the type that the run stores.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_clustering
from deepcluster_core.clustering.assign import Assigner
from deepcluster_core.clustering.registry import find_clusterer
from deepcluster_core.data.decode import decode, decode_packed, encode_jpeg
from deepcluster_core.data.sources import Kind, Source, SourceImage, has_samples, open_source
from deepcluster_core.data.views import center_view
from deepcluster_core.errors import ConfigError
from deepcluster_core.new_images import Forward, Pixels, Skip, features_of
from stages.runs.past_run import PastRun
from stages.runs.recipe import Recipe

Features = Iterator[tuple[list[str], NDArray[np.floating]]]
"""Paths and features (B, D) of a batch."""


def open_images(
    recipe: Recipe, source: Path, kind: str | None, image_key: Sequence[str] | None
) -> Source:
    """Open a source; the run's own source is opened as the run does, but with all its images.

    Raises:
        ConfigError: there is no such kind.
        SourceError: the source cannot be found or read.
    """
    known = get_args(Kind)
    if kind is not None and kind not in known:
        raise ConfigError(f"unknown --kind {kind}; choose from {', '.join(known)}.")
    is_own = source.resolve() == recipe.dataset.source.resolve()
    chosen = kind or (recipe.dataset.kind if is_own else "auto")
    if image_key is None and (is_own or (recipe.dataset.image_keys and has_samples(source))):
        image_key = recipe.dataset.image_keys
    return open_source(source, kind=cast("Kind", chosen), labels="none", image_key=image_key)


def embed_images(
    past: PastRun,
    images: Iterable[SourceImage],
    checkpoint: Path | None,
    layer: str | None,
    *,
    skip: Skip,
) -> Features:
    """Yield paths and features of the images that can be used, as the run computes them.

    Args:
        past: the run.
        images: in any number.
        checkpoint: whose network; None is the network before any training.
        layer: averaged over space; None for the feature of the paper.
        skip: called with path and reason of each image that cannot be used.
    """
    recipe = past.recipe
    extract = recipe.extract

    def view(data: bytes) -> Pixels:
        return _view(data, recipe)

    return features_of(
        past.network(checkpoint),
        images,
        view,
        Forward(layer, extract.batch_size, past.device, extract.precision),
        skip=skip,
        workers=past.workers,
    )


@dataclass(frozen=True)
class Clusters:
    """The clusters of an epoch, and the network that gave the features they were found in."""

    epoch: int
    labels: Path
    checkpoint: Path | None
    """Of the epoch before; None in the first epoch, whose network is not trained yet."""

    @classmethod
    def of(cls, past: PastRun, epoch: int | None) -> "Clusters":
        """Return the clusters of an epoch; None asks for the last one.

        Raises:
            ConfigError: the run has no such epoch.
            ArtifactError: labels or checkpoint are not there.
        """
        number = past.epoch("labels", epoch)
        labels = past.whole("labels", number)
        return cls(number, labels, None if number == 0 else past.whole("checkpoints", number - 1))

    @property
    def algorithm(self) -> str:
        """What found them: `cluster.algorithm`."""
        return read_manifest(self.labels).config["cluster"]["algorithm"]

    @property
    def assigns_to_nearest(self) -> bool:
        """Whether the algorithm itself puts each image into the cluster of the nearest mean."""
        return find_clusterer(self.algorithm).assigns_to_nearest

    def assigner(self, device: str) -> Assigner:
        """Return what finds the nearest cluster of a feature.

        Raises:
            ArtifactError: the label artifact is damaged.
        """
        whitened = read_manifest(self.labels).config["cluster"]["whiten"]
        return Assigner.of(read_clustering(self.labels), whitened=whitened, device=device)


def as_stored(features: Features, dtype: str) -> Features:
    """Round features as a run does between extracting and clustering."""
    for paths, feature_BD in features:
        with np.errstate(over="ignore"):  # becomes infinite, which the assigner rejects
            yield paths, feature_BD.astype(dtype)


def _view(data: bytes, recipe: Recipe) -> Pixels:
    """Return what the network sees of a picture: the same bytes as of one that the run packed."""
    dataset = recipe.dataset
    pixels_HWC = decode(
        data, channels=dataset.channels, shorter_side=dataset.shorter_side, deep=dataset.deep
    ).pixels_HWC
    if dataset.encoding == "jpeg":  # the others lose nothing
        pixels_HWC = decode_packed(encode_jpeg(pixels_HWC, dataset.jpeg_quality))
    return center_view(pixels_HWC, resize=recipe.extract.resize, size=recipe.network.image_size)
