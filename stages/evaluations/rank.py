"""Rank: images (+ checkpoint) -> quality of the features without labels, from views of images.

Suffixes: N images, V views of each, D dimensions of the feature, B batch, S side, C channels, R
views of a batch: all of an image, then the next one's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.images import Images
from deepcluster_core.clustering.spectrum import rankme
from deepcluster_core.config import PositiveRange, Precision, ShareRange, StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import (
    FLIP_DRAW,
    RandomCrop,
    augmentation_draws,
    random_boxes,
    random_views,
)
from deepcluster_core.device_feed.crops import Cut
from deepcluster_core.device_feed.feed import Feed, Request
from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.embedding_quality import alignment, lidar, uniformity
from deepcluster_core.features import ViewBatch, features_on_first
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.precision import computed_in
from deepcluster_core.stage import stage
from stages.evaluations.declaration import Evaluation
from stages.evaluations.shared.networks import ComparedNetworks
from stages.evaluations.shared.progress import ProgressCounter
from stages.evaluations.shared.results import RESULTS, Row, write_results

LEAST_IMAGES = 2
MEASURES = ("lidar", "rankme", "alignment", "uniformity")


class RankConfig(StrictConfig):
    """The protocol of measures without labels."""

    images: Annotated[int, Field(ge=LEAST_IMAGES)]
    """Number of images, drawn at random; all images if there are fewer. LiDAR is bounded by this
    number, so it should exceed the width of the feature."""

    views: Annotated[int, Field(ge=2)]
    """Random views of each image."""

    crop_area: ShareRange
    """Smallest and largest share of the image that a view covers. Views do not follow the recipe,
    so that runs with different augmentations can be compared."""

    crop_ratio: PositiveRange
    """Smallest and largest width / height of a view."""

    flip: float = Field(ge=0, le=1)
    """Probability of a horizontal flip."""

    delta: PositiveFloat
    """Added to the variances of LiDAR's covariance of views, squared units of the features."""

    layer: str
    """A named layer of the network, averaged over space, e.g. conv5. auto: the feature that the
    paper clusters, which is the last hidden layer before its ReLU."""

    batch_size: PositiveInt
    """Views in a forward pass."""

    precision: Precision
    """Number format of the forward pass; the measures are computed in float64."""


@stage(name="rank", version=1, kind="evaluations/rank", files=(RESULTS,), ranks="many")
def rank(
    draft: Draft,
    network: NetworkConfig,
    protocol: RankConfig,
    /,
    *,
    images: Path,
    checkpoint: Path | None,
) -> None:
    """Write a row for each compared network: LiDAR, RankMe, alignment and uniformity.

    Args:
        draft: artifact of the evaluation.
        network: the run's architecture.
        protocol: which views are taken, and of how many images.
        images: the run's images.
        checkpoint: the epoch's checkpoint; None measures the random network alone.
    """
    context = draft.context
    pictures = Images(images)
    views = _Views.drawn(pictures, protocol, network, context)
    networks = ComparedNetworks(network, pictures.channels, context, checkpoint, supervised=None)
    counter = ProgressCounter(context, len(networks) * len(views.image_id_N))
    rows: list[Row] = []
    for name, model in networks:
        # The same views for every network, so that only the networks differ.
        batches = features_on_first(
            model,
            views.plan(protocol.batch_size),
            views.load,
            layer=None if protocol.layer == "auto" else protocol.layer,
            context=context,
            precision=protocol.precision,
        )
        features: list[NDArray[np.float32]] = []
        for feature_BD in batches:
            features.append(feature_BD)
            counter.advance(len(feature_BD) // protocol.views)
        if context.ranks.rank == 0:
            rows.append({"network": name, **_measures(np.concatenate(features), protocol)})
    # The other ranks have computed features for the first one, which has all of them.
    if context.ranks.rank != 0:
        return
    draft.facts |= {
        "images": len(views.image_id_N),
        "precision": computed_in(context.device, protocol.precision),
    }
    write_results(draft, rows, protocol)


def _measures(feature_RD: NDArray[np.float32], protocol: RankConfig) -> Row:
    """Return the measures of the features of all views, image by image, and the feature's width."""
    feature_NVD = feature_RD.reshape(-1, protocol.views, feature_RD.shape[1])
    row = torch.from_numpy(feature_RD).double()
    unit_NVD = torch.nn.functional.normalize(torch.from_numpy(feature_NVD).double(), dim=2)
    moment_DD = row.T @ row / len(row)
    return {
        "width": feature_RD.shape[1],
        "lidar": lidar(feature_NVD, delta=protocol.delta),
        "rankme": rankme(torch.linalg.eigvalsh(moment_DD)),
        "alignment": alignment(unit_NVD),
        "uniformity": uniformity(unit_NVD[:, 0]),
    }


@dataclass(frozen=True)
class _Views:
    """Random views of images that were drawn at random; both depend on the run's seed alone."""

    images: Images
    image_id_N: NDArray[np.int64]
    crop: RandomCrop
    num_views: int
    network: NetworkConfig
    context: Context
    seed: int

    @classmethod
    def drawn(
        cls, images: Images, protocol: RankConfig, network: NetworkConfig, context: Context
    ) -> "_Views":
        """Draw the images.

        Raises:
            ConfigError: there are too few images.
        """
        if len(images) < LEAST_IMAGES:
            raise ConfigError(
                f"rank compares at least {LEAST_IMAGES} images, but there is {len(images)}.\n"
                f"  Fix: evaluate a run with more images."
            )
        generator = seeding.numpy_generator(context.seed, "rank", "images")
        num_images = min(protocol.images, len(images))
        drawn_N = generator.choice(len(images), num_images, replace=False)
        return cls(
            images=images,
            image_id_N=np.sort(drawn_N),
            crop=RandomCrop(protocol.crop_area, protocol.crop_ratio, protocol.flip),
            num_views=protocol.views,
            network=network,
            context=context,
            seed=seeding.derive(context.seed, "rank", "views"),
        )

    def plan(self, batch_size: int) -> list[range]:
        """Return the images of each batch, as positions in `image_id_N`, all views of each."""
        step = max(1, batch_size // self.num_views)
        num_images = len(self.image_id_N)
        return [range(start, min(start + step, num_images)) for start in range(0, num_images, step)]

    def load(self, planned: Sequence[range]) -> Iterator[ViewBatch]:
        """Yield the views of planned batches: all views of an image, then the next's.

        They are (R, S, S, C) of uint8, or (R, C, S, S) from 0 to 1 where a device is fed.
        """
        context = self.context
        if context.is_fed_on_device(self.images.shorter_side):
            feed = Feed.of(self.images, self.network, context, is_verified=True)
            for fed in feed.batches(map(self._request, planned), workers=context.workers):
                yield fed.views[0]
        else:
            # Workers load whole batches in parallel.
            yield from ordered_map(self._views, planned, workers=context.workers)

    def _views(self, positions: range) -> NDArray[np.uint8]:
        repeated: list[NDArray[np.uint8]] = []
        for image_id in self._ids(positions).tolist():
            repeated += [self.images.verified(image_id)] * self.num_views
        draws_RD = self._draws(positions)
        return random_views(repeated, draws_RD, self.crop, size=self.network.image_size)

    def _request(self, positions: range) -> Request:
        def cut(height_B: NDArray[np.int64], width_B: NDArray[np.int64]) -> list[Cut]:
            height_R = np.repeat(height_B, self.num_views)
            width_R = np.repeat(width_B, self.num_views)
            draws_RD = self._draws(positions)
            box_R4 = random_boxes(height_R, width_R, draws_RD, self.crop)
            flipped_R = draws_RD[:, FLIP_DRAW] < self.crop.flip
            return [Cut(box_R4, flipped_R, self.network.image_size)]

        return Request(self._ids(positions), (self.num_views,), cut, is_by_image=True)

    def _ids(self, positions: range) -> NDArray[np.int64]:
        return self.image_id_N[positions.start : positions.stop]

    def _draws(self, positions: range) -> NDArray[np.float64]:
        # Random numbers belong to the position of a view, so batches do not change them.
        start = positions.start * self.num_views
        return augmentation_draws(self.seed, start, len(positions) * self.num_views)


EVALUATION = Evaluation(
    rank,
    about="Rank, alignment and uniformity of the features; without labels",
    data="images",
    measures=MEASURES,
)
