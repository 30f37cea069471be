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
        resize = usual_resize(self.size)
        return Views(resize, self.size, random_crop=False, flip=self.random.flip)

    @property
    def num_judged(self) -> int:
        """The number V of views to judge an image on."""
        if self.judged == FIXED:
            return self.fixed.num_crops
        return self.judged


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
    # DIFFICULT counts as absent here, but has weight 0.
    target_BC = (mark_BC == PRESENT).to(logits_BC.dtype)
    weight_BC = (mark_BC != DIFFICULT).to(logits_BC.dtype)
    total = functional.binary_cross_entropy_with_logits(
        logits_BC,
        target_BC,
        weight=weight_BC,
        reduction="sum",
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
    crops = loading.crops
    num_drawn = iterations * loading.batch_size
    generator = seeding.numpy_generator(loading.seed, "order")
    order_M = plain_order(len(training.mark_NC), num_drawn, generator)
    views_seed = seeding.derive(loading.seed, "augment")

    # The views of a step depend on its number only, so a training can continue at any step.
    def load(step: int) -> tuple[Pixels, NDArray[np.int8]]:
        first = step * loading.batch_size
        rows = order_M[first : first + loading.batch_size]
        draws_BR = augmentation_draws(views_seed, first, len(rows))
        pictures = [training.picture(row) for row in rows.tolist()]
        views_BSSC = random_views(pictures, draws_BR, crops.random, size=crops.size)
        return views_BSSC, training.mark_NC[rows]

    def learn(batch: tuple[Pixels, NDArray[np.int8]], step: int) -> Tensor:
        views_BSSC, mark_BC = batch
        mark = torch.from_numpy(mark_BC).to(model.device, non_blocking=True)

        def loss_of(logits_BC: Tensor) -> Tensor:
            return masked_loss(logits_BC, mark)

        return model.learn(views_BSSC, loss_of, step)

    steps = range(start, iterations)
    train_steps(load, learn, steps=steps, workers=loading.workers, after_step=after_step)


def judge(model: FineTuned, images: Marked, loading: Loading) -> Iterator[NDArray[np.float32]]:
    """Yield logits_BC of each batch of images, in order, summed over the V crops of an image."""
    crops = loading.crops
    num_views = crops.num_judged
    num_images = len(images.mark_NC)
    images_at_once = max(1, loading.batch_size // num_views)
    views_seed = seeding.derive(loading.seed, "judge")

    def load(first: int) -> Pixels:
        rows = range(first, min(first + images_at_once, num_images))
        pictures = [images.picture(row) for row in rows]
        if crops.judged == FIXED:
            return np.concatenate([fixed_crops(image_HWC, crops.fixed) for image_HWC in pictures])
        # The V views of an image lie side by side, as those of `fixed_crops`.
        repeated: list[Pixels] = []
        for image_HWC in pictures:
            repeated += [image_HWC] * num_views
        draws_BR = augmentation_draws(views_seed, first * num_views, len(repeated))
        return random_views(repeated, draws_BR, crops.random, size=crops.size)

    firsts = range(0, num_images, images_at_once)
    for views_BSSC in ordered_map(load, firsts, workers=loading.workers):
        logits = model.outputs(views_BSSC)
        logits_BVC = logits.unflatten(0, (-1, num_views))
        yield logits_BVC.sum(dim=1).cpu().numpy()
