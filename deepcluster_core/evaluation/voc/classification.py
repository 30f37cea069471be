"""Several yes-or-no questions about each image, learnt and answered together.

Suffixes: N images, M images drawn, B images of a batch, V views of an image, C classes (or the
channels of a view, behind S, its side).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deepcluster_core import seeding
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import Pixels, RandomCrop, augmentation_draws, random_views
from deepcluster_core.evaluation.crops import Views, fixed_crops, usual_resize
from deepcluster_core.evaluation.voc.dataset import DIFFICULT, PRESENT
from deepcluster_core.evaluation.voc.fine_tuning import FineTuned
from deepcluster_core.training.learner import train_steps
from deepcluster_core.training.sampler import plain_order

FIXED = "fixed"


@dataclass(frozen=True)
class Marked:
    """Images, and what they show."""

    picture: Callable[[int], Pixels]
    """Returns image 0 to N - 1, (H, W, C); called in threads."""
    mark_NC: NDArray[np.int8]
    """PRESENT, DIFFICULT or ABSENT."""


@dataclass(frozen=True)
class Crops:
    """The views of an image."""

    random: RandomCrop
    """To train on."""
    size: int
    """S, pixels."""
    judged: int | Literal["fixed"]
    """V random ones to judge on; or the four corners and the centre of the image at 256/224 of S,
    and, if crops are flipped at all, the same mirrored."""

    @property
    def fixed(self) -> Views:
        """How the fixed ones lie."""
        return Views(usual_resize(self.size), self.size, random_crop=False, flip=self.random.flip)

    @property
    def num_judged(self) -> int:
        """V."""
        return self.fixed.num_crops if self.judged == FIXED else self.judged


@dataclass(frozen=True)
class Loading:
    """How views come to the network."""

    crops: Crops
    batch_size: int
    """Views in a forward pass."""
    workers: int
    """Threads that load."""
    seed: int
    """Of order and views."""


def masked_loss(logits_BC: Tensor, mark_BC: Tensor) -> Tensor:
    """Return the cross entropy of C sigmoids in nats, summed over classes, divided by B.

    Of a class that is DIFFICULT in an image, the image says nothing: neither loss nor gradient.
    """
    target_BC = (mark_BC == PRESENT).to(logits_BC.dtype)
    counts_BC = (mark_BC != DIFFICULT).to(logits_BC.dtype)
    total = functional.binary_cross_entropy_with_logits(
        logits_BC, target_BC, weight=counts_BC, reduction="sum"
    )
    return total / len(logits_BC)


def fit(
    model: FineTuned,
    training: Marked,
    loading: Loading,
    *,
    iterations: int,
    start: int,
    after_step: Callable[[int], None],
) -> None:
    """Train on random crops, pass after pass over the images, each in a new order.

    Args:
        model: changed in place.
        training: N.
        loading: how.
        iterations: steps.
        start: steps that were done before.
        after_step: told how many steps are done; the model stands still meanwhile.

    Raises:
        TrainingError: the loss is not finite.
    """
    order_M = plain_order(
        len(training.mark_NC),
        iterations * loading.batch_size,
        seeding.numpy_generator(loading.seed, "order"),
    )
    drawn_by = seeding.derive(loading.seed, "augment")

    def load(step: int) -> tuple[Pixels, NDArray[np.int8]]:
        first = step * loading.batch_size
        rows = order_M[first : first + loading.batch_size]
        draws_BR = augmentation_draws(drawn_by, first, len(rows))
        pictures = [training.picture(int(row)) for row in rows]
        views_BSSC = random_views(pictures, draws_BR, loading.crops.random, size=loading.crops.size)
        return views_BSSC, training.mark_NC[rows]

    def learn(batch: tuple[Pixels, NDArray[np.int8]], step: int) -> Tensor:
        views_BSSC, mark_BC = batch
        mark = torch.from_numpy(mark_BC).to(model.device, non_blocking=True)
        return model.learn(views_BSSC, lambda logits_BC: masked_loss(logits_BC, mark), step)

    steps = range(start, iterations)
    train_steps(load, learn, steps=steps, workers=loading.workers, after_step=after_step)


def judge(model: FineTuned, images: Marked, loading: Loading) -> Iterator[NDArray[np.float32]]:
    """Yield logits_BC of the images in order, batch by batch: the sum over V crops of each."""
    crops, num_images = loading.crops, len(images.mark_NC)
    each = max(1, loading.batch_size // crops.num_judged)
    drawn_by = seeding.derive(loading.seed, "judge")

    def load(first: int) -> Pixels:
        rows = range(first, min(first + each, num_images))
        pictures = [images.picture(row) for row in rows]
        if crops.judged == FIXED:
            return np.concatenate([fixed_crops(p_HWC, crops.fixed) for p_HWC in pictures])
        repeated = [p_HWC for p_HWC in pictures for _ in range(crops.num_judged)]
        draws_BR = augmentation_draws(drawn_by, first * crops.num_judged, len(repeated))
        return random_views(repeated, draws_BR, crops.random, size=crops.size)

    for views_BSSC in ordered_map(load, range(0, num_images, each), workers=loading.workers):
        logits_BVC = model.outputs(views_BSSC).unflatten(0, (-1, crops.num_judged))
        yield logits_BVC.sum(dim=1).cpu().numpy()
