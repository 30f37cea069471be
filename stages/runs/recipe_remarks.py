"""Remarks on a recipe that fits together, but may not do what is expected of it."""

import math
from collections.abc import Iterator

from stages.runs.recipe import Recipe
from stages.train import Pace, TrainConfig

_DEFAULT_AREA = TrainConfig.model_fields["crop_area"].default


def recipe_remarks(recipe: Recipe, num_images: int) -> Iterator[str]:
    """Yield remarks on a recipe for `num_images` images; a run reports them as warnings."""
    if not recipe.trains:
        return
    train = recipe.train
    # Compared with the default, because the saved recipe of a run has every key. It is not an
    # error, because recipes for one view have it, and views can be set for any recipe.
    if train.views is not None and train.crop_area != _DEFAULT_AREA:
        yield (
            f"train.crop_area: {list(train.crop_area)} is not read with train.views, whose kinds "
            f"have an `area` each"
        )
    if train.has_bank and train.balance == "sample":
        yield (
            "train.prototypes.bank with train.balance: sample: images of large clusters are drawn "
            "seldom, so that the embeddings that are clustered become many epochs old; "
            "train.balance: none, as in DeepCluster-v2, draws all images equally often"
        )
    if train.average is not None:
        yield from _slow_average(train.average, Pace.of(train, num_images=num_images).steps)


def _slow_average(share: float, steps: int) -> Iterator[str]:
    """Yield a remark if the average is mostly the first weights after an epoch of `steps` steps.

    The average begins with the weights that the network begins with; each step leaves `share` of
    them.
    """
    first = share**steps
    if first <= 0.5:
        return
    # The share of which a tenth of the first weights is left, cut off after three digits.
    enough = math.floor(1000 * 0.1 ** (1 / steps)) / 1000
    yield (
        f"train.average: after the {steps:,} steps of an epoch, {first:.0%} of the averaged "
        f"weights are still those that the network began with ({share:g} to the power of "
        f"{steps:,}); features show the training sooner with train.average={enough:g}, or with a "
        f"larger train.reassign_every"
    )
