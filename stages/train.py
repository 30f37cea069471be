"""Train: labels (+ checkpoint) -> checkpoint. Trains one epoch on the pseudo-labels."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import MODEL, MOMENTUM
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.tables import read_labels
from deepcluster_core.config import PositiveRange, Precision, ShareRange, StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.data.augment_config import (
    BlurConfig,
    ColourConfig,
    NoiseConfig,
    Probability,
    ViewsConfig,
)
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.stage import stage
from deepcluster_core.training.config import LarsConfig, PrototypesConfig, ScheduleConfig
from deepcluster_core.training.sampler import balancing_weights, plain_order, uniform_order

if TYPE_CHECKING:
    from deepcluster_core.training.batches import Batches
    from deepcluster_core.training.epoch import PseudoLabelLearner
    from deepcluster_core.training.plan import Plan


class TrainConfig(StrictConfig):
    """How the network learns from pseudo-labels. The defaults are those of section 3.4.

    Keys that are None by default belong to DeepCluster-v2 (Caron et al. 2020) or go beyond it; each
    can be set alone.
    """

    absent_when_none = frozenset(
        (
            "views",
            "flip_vertical",
            "turn",
            "colour",
            "blur",
            "noise",
            "prototypes",
            "schedule",
            "lars",
            "average",
        )
    )

    lr: Annotated[FiniteFloat, Field(gt=0)] = 0.05
    """Constant learning rate. The paper gives none; this is the value in the authors' code."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD for the backbone, carried over from epoch to epoch. The head, which is new in
    each epoch, is trained without momentum."""

    weight_decay: FiniteFloat = Field(default=0.00001, ge=0)
    """L2 penalty on all weights."""

    batch_size: Annotated[int, Field(ge=2)] | Literal["auto"] = 256
    """Images in a step. auto: see `Pace`."""

    balance: Literal["sample", "weigh", "none"] = "sample"
    """How small clusters are balanced against large ones, section 3.3. sample: draw images
    uniformly over clusters. weigh: draw images evenly and weight the loss by the inverse of the
    cluster's size, which is equivalent in expectation. none: do not balance."""

    reassign_every: Annotated[FiniteFloat, Field(gt=0, le=1_000_000)] | Literal["auto"] = 1.0
    """Passes over the data set between two clusterings; can be fractional. auto: see `Pace`."""

    crop_area: ShareRange = (0.08, 1.0)
    """Smallest and largest share of the image that a training crop covers; torchvision's default,
    as in the authors' code."""

    crop_ratio: PositiveRange = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a training crop; torchvision's default, as in the
    authors' code."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""

    views: Annotated[tuple[ViewsConfig, ...], Field(min_length=1)] | None = None
    """Several views of each image in a step (multi-crop), in place of `crop_area`; all of them
    predict the cluster of the image. The first kind has the size `network.image_size`. None: one
    view, as in DeepCluster."""

    flip_vertical: Probability | None = None
    """Probability of a vertical flip, for images without an upright position."""

    turn: Probability | None = None
    """Probability of a turn by 90, 180 or 270 degrees, for images without an upright position."""

    colour: ColourConfig | None = None
    """Random changes of brightness and colour."""

    blur: BlurConfig | None = None
    """Random blur."""

    noise: NoiseConfig | None = None
    """Random noise."""

    prototypes: PrototypesConfig | None = None
    """Classify by the centroids of the clusters. None: by a new linear layer in every epoch, as in
    DeepCluster."""

    schedule: ScheduleConfig | None = None
    """Change the learning rate from step to step. None: it is constant, as in DeepCluster."""

    lars: LarsConfig | None = None
    """Adapt the step of each weight to its norm, for large batches."""

    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average of the weights, which features are computed with: after
    each step, the average keeps this share of itself. None: use the weights themselves."""

    precision: Precision = "auto"
    """Number format of the forward pass. Weights, loss and updates are float32."""


@dataclass(frozen=True)
class Pace:
    """Batch size and draws as numbers; `auto` derives them from the number of images.

    batch_size: 64 below 100,000 images, else the paper's 256. Still smaller batches do not help
    with few images, as the measurement below shows.
    reassign_every: the whole number of passes, at least one, that makes about 150 steps, so that
    the network has learnt something before its features are clustered again.

    These rules are ours. Measured on 2,000 MNIST digits with k = 20 for six epochs: with batches of
    16 and one pass, the features collapse (effective rank 1; the NMI with the labels falls from
    0.48 to 0.09); with batches of 64 and five passes, they do not (effective rank 8, NMI 0.64).
    """

    batch_size: int
    num_draws: int
    """Number of images that an epoch trains on; an image that is drawn twice counts twice."""

    @classmethod
    def of(cls, train: TrainConfig, *, num_images: int) -> "Pace":
        """Return the batch size and the number of draws for `num_images` images."""
        batch_size = train.batch_size
        if batch_size == "auto":
            batch_size = 64 if num_images < 100_000 else 256
        passes = train.reassign_every
        if passes == "auto":
            # The whole number of passes that comes closest to 150 steps.
            passes = max(1, round(150 * batch_size / num_images))
        num_draws = max(1, round(passes * num_images))
        return cls(batch_size, num_draws)

    @property
    def steps(self) -> int:
        """Number of steps in an epoch, that is, between two clusterings."""
        return math.ceil(self.num_draws / self.batch_size)


@stage(name="train", version=1, kind="checkpoints", files=(MODEL, MOMENTUM), ranks="many")
def train(
    draft: Draft,
    train: TrainConfig,
    network: NetworkConfig,
    /,
    *,
    images: Path,
    labels: Path,
    checkpoint: Path | None,
) -> None:
    """Write the checkpoint artifact: the network after this epoch, without its head."""
    # Imported here because they import torch, which reading a recipe does not need.
    from deepcluster_core.artifacts.checkpoints import write_checkpoint
    from deepcluster_core.precision import computed_in
    from deepcluster_core.training.checkpointing import save_points
    from deepcluster_core.training.epoch import Progress, train_epoch
    from deepcluster_core.training.plan import shared_plan

    context = draft.context
    pictures = Images(images)
    plan = shared_plan(
        lambda: _plan(labels, train, len(pictures), context),
        context.scratch or draft.folder,
        draft.folder,
        context.ranks,
    )
    learner = _learner(network, train, pictures, plan.k, checkpoint, context)
    batches = _batches(pictures, plan, train, network.image_size, context)
    num_draws = len(plan.order_M)
    with save_points(draft, context.save_every) as points:

        def after_step(progress: Progress) -> None:
            context.progress(progress.seen, num_draws)
            points.reached(learner, progress.step, progress.facts)

        # An earlier attempt may have been cut short: restore its state, and go on at its next step.
        resumed = Progress.resumed(points.resume(learner), context.device, context.ranks)
        remaining = batches.from_step(resumed.step, workers=context.workers)
        loss = train_epoch(
            learner,
            remaining,
            precision=train.precision,
            after_step=after_step,
            progress=resumed,
        )
    if context.ranks.rank == 0:  # all ranks hold the same weights
        momentum = learner.momentum_of("network")
        write_checkpoint(draft.folder, backbone=learner.network, momentum=momentum)
    draft.rows = num_draws
    draft.facts = {
        "loss": loss,
        "k": plan.k,
        "network": network.name,
        "precision": computed_in(context.device, train.precision),
    }


def _learner(
    network: NetworkConfig,
    train: TrainConfig,
    pictures: Images,
    k: int,
    checkpoint: Path | None,
    context: Context,
) -> "PseudoLabelLearner":
    """Return the network of the previous epoch, or in the first epoch a new one, with a new head.

    The momentum of the backbone is restored with it.
    """
    # Imported here because they import torch, as in `train`.
    from deepcluster_core.artifacts.checkpoints import load_momentum
    from deepcluster_core.network_of_epoch import network_of_epoch
    from deepcluster_core.training.epoch import PseudoLabelLearner
    from deepcluster_core.training.learner import Sgd

    restored = network_of_epoch(network, pictures, checkpoint=checkpoint, context=context)
    learner = PseudoLabelLearner(
        restored,
        k=k,
        sgd=Sgd(train.lr, train.momentum, train.weight_decay),
        device=context.device,
        head_seed=_seed(context, "head"),
        dropout_seed=_seed(context, "dropout"),
        ranks=context.ranks,
    )
    if checkpoint is not None:
        learner.restore_momentum("network", load_momentum(checkpoint))
    return learner


def _batches(
    pictures: Images, plan: "Plan", train: TrainConfig, size: int, context: Context
) -> "Batches":
    """Return the batches of the epoch: random crops of images in the order of the plan."""
    from deepcluster_core.data.views import RandomCrop
    from deepcluster_core.training.batches import Batches

    crop = RandomCrop(area=train.crop_area, ratio=train.crop_ratio, flip=train.flip)
    return Batches(
        pictures,
        plan,
        Pace.of(train, num_images=len(pictures)).batch_size,
        crop,
        size=size,
        seed=_seed(context, "augment"),
        is_weighted=train.balance == "weigh",
        ranks=context.ranks,
    )


def _seed(context: Context, purpose: str) -> int:
    """Return a seed of its own for each epoch and purpose."""
    return seeding.derive(context.seed, context.epoch or 0, "train", purpose)


def _plan(labels: Path, train: TrainConfig, num_images: int, context: Context) -> "Plan":
    """Return the order of the epoch, which depends on seed and epoch only, and the clusters."""
    from deepcluster_core.training.plan import Plan

    assigned = read_labels(labels)
    pace = Pace.of(train, num_images=num_images)
    order_M = _order(assigned.cluster_N, assigned.k, train, pace, context)
    weight_K = balancing_weights(assigned.cluster_N, k=assigned.k)
    return Plan(order_M, assigned.cluster_N, weight_K)


def _order(
    cluster_N: NDArray[np.int32], k: int, train: TrainConfig, pace: Pace, context: Context
) -> NDArray[np.int64]:
    """Return the image_id at every position of the epoch, which depends on seed and epoch only."""
    num_draws = pace.num_draws
    generator = np.random.default_rng(_seed(context, "order"))
    if train.balance == "sample":
        order_M = uniform_order(cluster_N, k=k, num_draws=num_draws, generator=generator)
    else:
        order_M = plain_order(len(cluster_N), num_draws, generator)
    # Batch normalisation needs at least two images, so a last batch with one image is left out.
    ends_with_one = num_draws > 1 and num_draws % pace.batch_size == 1
    if ends_with_one:
        return order_M[:-1]
    return order_M
