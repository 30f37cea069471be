"""Multi-label classification: training and judging a network with one sigmoid per class.

Suffixes: N images, M images drawn, B images of a batch, V views of an image, C classes (or the
channels of a view, behind S, its side), R random numbers of an image.
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
    """Images, and the classes that they show."""

    picture: Callable[[int], Pixels]
    """Function that returns image 0 to N - 1, (H, W, C); called from several threads."""
    mark_NC: NDArray[np.int8]
    """PRESENT, DIFFICULT or ABSENT for each image and class."""


@dataclass(frozen=True)
class Crops:
    """The settings of the views of an image."""

    random: RandomCrop
    """Random crops to train on."""
    size: int
    """Side S of a view, pixels."""
    judged: int | Literal["fixed"]
    """Views to judge on: a number V of random crops; or `fixed` for the four corners and the centre
    of the image at 256/224 of S and, unless the flip probability is 0, their mirror images."""

    @property
    def fixed(self) -> Views:
        """The settings of the fixed views."""
        return Views(usual_resize(self.size), self.size, random_crop=False, flip=self.random.flip)

    @property
    def num_judged(self) -> int:
        """The number V of views to judge an image on."""
        return self.fixed.num_crops if self.judged == FIXED else self.judged


@dataclass(frozen=True)
class Loading:
    """The settings of loading views."""

    crops: Crops
    batch_size: int
    """Views in a forward pass."""
    workers: int
    """Number of threads that load images."""
    seed: int
    """Seed of the order and the views."""


def masked_loss(logits_BC: Tensor, mark_BC: Tensor) -> Tensor:
    """Return the cross-entropy of C sigmoids in nats, summed over classes and divided by B.

    A class that is DIFFICULT in an image contributes neither loss nor gradient for that image.
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
    """Train on random crops. Each pass over the images has a new order.

    Args:
        model: modified in place.
        training: N images to train on.
        loading: settings of the views.
        iterations: total number of steps.
        start: number of steps that are already completed.
        after_step: called with the number of completed steps. The model does not change meanwhile.

    Raises:
        TrainingError: the loss is not finite.
    """
    order_M = plain_order(
        len(training.mark_NC),
        iterations * loading.batch_size,
        seeding.numpy_generator(loading.seed, "order"),
    )
    views_seed = seeding.derive(loading.seed, "augment")

    def load(step: int) -> tuple[Pixels, NDArray[np.int8]]:
        first = step * loading.batch_size
        rows = order_M[first : first + loading.batch_size]
        draws_BR = augmentation_draws(views_seed, first, len(rows))
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
    """Yield logits_BC of each batch of images, in order, summed over the V crops of an image."""
    crops, num_images = loading.crops, len(images.mark_NC)
    images_at_once = max(1, loading.batch_size // crops.num_judged)
    views_seed = seeding.derive(loading.seed, "judge")

    def load(first: int) -> Pixels:
        rows = range(first, min(first + images_at_once, num_images))
        pictures = [images.picture(row) for row in rows]
        if crops.judged == FIXED:
            return np.concatenate([fixed_crops(p_HWC, crops.fixed) for p_HWC in pictures])
        repeated = [p_HWC for p_HWC in pictures for _ in range(crops.num_judged)]
        draws_BR = augmentation_draws(views_seed, first * crops.num_judged, len(repeated))
        return random_views(repeated, draws_BR, crops.random, size=crops.size)

    firsts = range(0, num_images, images_at_once)
    for views_BSSC in ordered_map(load, firsts, workers=loading.workers):
        logits_BVC = model.outputs(views_BSSC).unflatten(0, (-1, crops.num_judged))
        yield logits_BVC.sum(dim=1).cpu().numpy()
