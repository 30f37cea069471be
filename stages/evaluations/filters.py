"""Filters: network -> a picture of its first layer's filters (figure 3), and numbers about them."""

from pathlib import Path

from PIL import Image

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.images import Images
from deepcluster_core.config import StrictConfig
from deepcluster_core.evaluation.filters.first_layer import (
    Scale,
    Weights,
    cosines,
    draw_filters,
    first_filters,
    high_frequency,
    norms,
)
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.stage import stage
from stages.evaluations.declaration import Evaluation
from stages.evaluations.shared.results import RESULTS, Row, write_results

PICTURE = "filters.png"
PICTURE_RANDOM = "filters-random.png"
CAPTIONS = {
    PICTURE: "Filters of the first layer after training, a tile each",
    PICTURE_RANDOM: "Filters of the first layer before training, a tile each",
}


class FiltersConfig(StrictConfig):
    """The protocol of filters: how they are drawn."""

    scale: Scale
    """Which weight is drawn in the brightest or darkest tone: the greatest of `each` filter, or
    the greatest of `all` filters. Zero is mid grey."""


@stage(
    name="filters", version=1, kind="evaluations/filters", files=(RESULTS, PICTURE, PICTURE_RANDOM)
)
def filters(
    draft: Draft,
    network: NetworkConfig,
    protocol: FiltersConfig,
    /,
    *,
    images: Path,
    checkpoint: Path | None,
) -> None:
    """Write a row and a tile for each filter, and compare it with the filter before training.

    The images artifact is opened only for its number of channels.
    """
    context = draft.context
    channels = Images(images).channels

    def filters_of(weights: Path | None) -> Weights:
        restored = restore_network(
            network, channels=channels, seed=context.seed, checkpoint=weights
        )
        return first_filters(restored)

    learnt_FCHW = filters_of(checkpoint)
    random_FCHW = filters_of(None)  # before any training
    # With the scale `all`, each of the two pictures has a scale of its own.
    for name, weight_FCHW in ((PICTURE, learnt_FCHW), (PICTURE_RANDOM, random_FCHW)):
        picture_HWC = draw_filters(weight_FCHW, sobel=network.sobel, scale=protocol.scale)
        Image.fromarray(picture_HWC).save(draft.folder / name)
    write_results(draft, _rows(learnt_FCHW, random_FCHW), protocol, CAPTIONS)


def _rows(learnt_FCHW: Weights, random_FCHW: Weights) -> list[Row]:
    """Return a row for each filter: its numbers after and before training, and their cosine."""
    columns = {
        "norm": norms(learnt_FCHW),
        "mean": learnt_FCHW.mean(axis=(1, 2, 3)),
        "high_frequency": high_frequency(learnt_FCHW),
        "random_norm": norms(random_FCHW),
        "random_high_frequency": high_frequency(random_FCHW),
        "random_cosine": cosines(learnt_FCHW, random_FCHW),
    }
    rows: list[Row] = []
    for number in range(len(learnt_FCHW)):
        values = {name: float(values_F[number]) for name, values_F in columns.items()}
        rows.append({"filter": number, **values})
    return rows


EVALUATION = Evaluation(
    filters,
    about="The filters of the first layer, figure 3",
    data="images",
)
