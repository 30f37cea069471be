"""Train: labels (+ checkpoint) -> checkpoint. Trains one epoch on the pseudo-labels."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import AVERAGE, FEATURES, MODEL, MOMENTUM
from deepcluster_core.artifacts.images import Images
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

if TYPE_CHECKING:
    from deepcluster_core.data.augment import Views
    from deepcluster_core.training.batches import Batches
    from deepcluster_core.training.epoch import PseudoLabelLearner
    from deepcluster_core.training.heads import Head
    from deepcluster_core.training.learner import Sgd
    from deepcluster_core.training.plan import Cuts, FindSecondClusters, Plan


class TrainConfig(StrictConfig):
    """How the network learns from pseudo-labels. The defaults are those of section 3.4.

    Keys that are None by default belong to DeepCluster-v2 (Caron et al. 2020) or go beyond it; each
    can be set alone.
    """

    absent_when_none = frozenset(
        (
            *("views", "flip_vertical", "turn", "colour", "blur", "noise"),
            *("prototypes", "schedule", "lars", "average"),
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
    each step, the average keeps this share of itself. The embeddings of a bank are still those of
    the weights themselves. None: use the weights themselves."""

    precision: Precision = "auto"
    """Number format of the forward pass; weights, loss and updates are float32. auto: the faster
    one on the machine on which the run begins; the run keeps it, also elsewhere."""

    @property
    def has_bank(self) -> bool:
        """Whether training computes the embeddings that the next epoch clusters."""
        return self.prototypes is not None and self.prototypes.bank

    @property
    def is_soft(self) -> bool:
        """Whether an image's target is shared by two clusters."""
        return self.prototypes is not None and bool(self.prototypes.soft)

    @property
    def reads_features(self) -> bool:
        """Whether training reads the features that were clustered."""
        return self.has_bank or self.is_soft


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


@stage(
    name="train",
    version=1,
    kind="checkpoints",
    files=(MODEL, MOMENTUM),
    optional_files=(AVERAGE, FEATURES),
    ranks="many",
)
def train(
    draft: Draft,
    train: TrainConfig,
    network: NetworkConfig,
    /,
    *,
    images: Path,
    labels: Path,
    checkpoint: Path | None,
    features: Path | None = None,
) -> None:
    """Write the checkpoint artifact: the network after this epoch, without its head.

    `features` holds the features that were clustered, which a bank begins with and soft targets
    follow from; it is None if there is neither.
    """
    # Imported here because they import torch, which reading a recipe does not need.
    from deepcluster_core.precision import computed_in
    from deepcluster_core.training.plan import Cuts, plan_of, shared_plan

    context = draft.context
    pictures = Images(images)
    pictures.check_read_by(network.grey_weights)
    pace = Pace.of(train, num_images=len(pictures))
    # Even cuts for a projection, which normalises over the images of a batch.
    is_even = network.projection is not None
    cuts = Cuts(pace.num_draws, pace.batch_size, is_even).without_single_image()
    plan = shared_plan(
        lambda: plan_of(
            labels,
            balance=train.balance,
            num_draws=pace.num_draws,
            num_kept=cuts.num_draws,
            seed=_seed(context, "order"),
            find_second=_find_second_clusters(labels, features, train, context),
        ),
        context.scratch or draft.folder,
        draft.folder,
        context.ranks,
    )
    batches = _batches(pictures, plan, cuts, train, network, context)
    if train.prototypes is None:
        plan.check_single()
    inputs = _Inputs(pictures, labels, checkpoint, features)
    learner = _learner(network, train, plan.k, cuts, inputs, context)
    draft.facts = _train(learner, batches, train, draft)
    if context.ranks.rank == 0:  # all ranks hold the same weights
        _write(draft.folder, learner)
    draft.rows = cuts.num_draws
    draft.facts |= {"k": plan.k, "network": network.name}
    draft.facts["precision"] = computed_in(context.device, train.precision)


def _train(
    learner: "PseudoLabelLearner", batches: "Batches", train: TrainConfig, draft: Draft
) -> dict[str, float]:
    """Train on the batches, from the last save of the draft on; return the results as facts."""
    from deepcluster_core.training.checkpointing import save_points
    from deepcluster_core.training.epoch import Progress, train_epoch

    context = draft.context
    with save_points(draft, context.save_every) as points:

        def after_step(progress: Progress) -> None:
            def facts() -> dict[str, Any]:
                learner.flush()  # so that the state that is saved with the facts is complete
                return progress.facts()

            context.progress(progress.seen, batches.cuts.num_draws)
            points.reached(learner, progress.step, facts)

        # An earlier attempt may have been cut short: restore its state, and go on at its next step.
        progress = Progress.resumed(points.resume(learner), context.device, context.ranks)
        remaining = batches.from_step(progress.step, workers=context.workers)
        loss = train_epoch(
            learner,
            remaining,
            precision=train.precision,
            after_step=after_step,
            step=context.step,
            progress=progress,
        )
    learner.flush()
    agreement = progress.view_agreement()
    return {"loss": loss} | ({} if agreement is None else {"view_agreement": agreement})


def _write(folder: Path, learner: "PseudoLabelLearner") -> None:
    """Write the network, and the average and the bank if there are any."""
    from deepcluster_core.artifacts.checkpoints import write_checkpoint

    write_checkpoint(
        folder,
        backbone=learner.network,
        momentum=learner.momentum_of("network"),
        average=learner.average.state_dict() if learner.average else None,
    )
    if learner.bank is not None:
        learner.bank.write(folder)


@dataclass(frozen=True)
class _Inputs:
    """The artifacts that a learner begins with."""

    pictures: Images
    labels: Path
    checkpoint: Path | None
    features: Path | None


def _learner(
    network: NetworkConfig,
    train: TrainConfig,
    k: int,
    cuts: "Cuts",
    inputs: _Inputs,
    context: Context,
) -> "PseudoLabelLearner":
    """Return the network of the previous epoch, or in the first epoch a new one, with a new head.

    The momentum of the backbone, the average and the bank are restored with it.
    """
    from deepcluster_core.artifacts.checkpoints import load_average, load_momentum, restore_network
    from deepcluster_core.training.average import WeightAverage
    from deepcluster_core.training.bank import Bank
    from deepcluster_core.training.epoch import PseudoLabelLearner

    checkpoint = inputs.checkpoint
    restored = restore_network(
        network,
        channels=inputs.pictures.channels,
        seed=context.seed,
        checkpoint=checkpoint,
        averaged=False,
    )
    learner = PseudoLabelLearner(
        restored,
        head=_head(train, restored.output_dim, k, inputs.labels, context),
        sgd=_sgd(train, cuts.num_steps, context),
        device=context.device,
        dropout_seed=_seed(context, "dropout"),
        ranks=context.ranks,
    )
    if checkpoint is not None:
        learner.restore_momentum("network", load_momentum(checkpoint))
    if train.average is not None:
        start = load_average(checkpoint) if checkpoint is not None else None
        learner.average = WeightAverage(restored, share=train.average, start=start)
    if train.has_bank:
        learner.bank = Bank.beginning_with(
            inputs.features,
            num_images=len(inputs.pictures),
            num_views=train.views[0].count if train.views else 1,
            dim=restored.output_dim,
            ranks=context.ranks,
        )
    return learner


def _head(train: TrainConfig, dim: int, k: int, labels: Path, context: Context) -> "Head":
    """Return a new layer, or the centroids of the labels."""
    from deepcluster_core.training.heads import Fresh, Prototypes

    if train.prototypes is None:
        return Fresh.drawn(dim, k, seed=_seed(context, "head"))
    return Prototypes.of_labels(labels, dim=dim, temperature=train.prototypes.temperature)


def _sgd(train: TrainConfig, num_steps: int, context: Context) -> "Sgd":
    """Return the settings of the optimizer for an epoch of `num_steps` steps."""
    from deepcluster_core.training.learner import Sgd
    from deepcluster_core.training.schedule import schedule_of_epoch

    epoch = context.epoch or 0
    schedule = schedule_of_epoch(train.schedule, lr=train.lr, epoch=epoch, num_steps=num_steps)
    trust = None if train.lars is None else train.lars.trust
    return Sgd(train.lr, train.momentum, train.weight_decay, schedule=schedule, trust=trust)


def _find_second_clusters(
    labels: Path, features: Path | None, train: TrainConfig, context: Context
) -> "FindSecondClusters | None":
    """Return what finds second clusters for soft targets; None for hard ones."""
    from deepcluster_core.clustering.second_clusters import find_second_clusters

    if train.prototypes is None or not train.is_soft:
        return None
    return partial(
        find_second_clusters,
        labels,
        features,
        temperature=train.prototypes.temperature,
        device=context.device,
    )


def _batches(
    pictures: Images,
    plan: "Plan",
    cuts: "Cuts",
    train: TrainConfig,
    network: NetworkConfig,
    context: Context,
) -> "Batches":
    """Return the batches of the epoch: random views of images in the order of the plan."""
    from deepcluster_core.device_feed.feed import Feed
    from deepcluster_core.training.batches import Batches

    is_fed = context.is_fed_on_device(pictures.shorter_side)
    return Batches(
        pictures,
        plan,
        cuts,
        _views(train, network.image_size, context),
        is_weighted=train.balance == "weigh",
        ranks=context.ranks,
        feed=Feed.of(pictures, network, context) if is_fed else None,
    )


def _views(train: TrainConfig, size: int, context: Context) -> "Views":
    """Return the random views of the epoch; without `train.views`, one of `size` pixels."""
    from deepcluster_core.data.augment import Augmentation, ViewKind, Views
    from deepcluster_core.data.views import RandomCrop

    def kind(count: int, size: int, area: tuple[float, float]) -> ViewKind:
        return ViewKind(count, size, RandomCrop(area, train.crop_ratio, train.flip))

    if train.views is None:
        kinds = (kind(1, size, train.crop_area),)
    else:
        kinds = tuple(kind(one.count, one.size, one.area) for one in train.views)
    augmentation = Augmentation(
        flip_vertical=train.flip_vertical or 0.0,
        turn=train.turn or 0.0,
        colour=train.colour,
        blur=train.blur,
        noise=train.noise,
    )
    return Views(kinds, augmentation, _seed(context, "augment"))


def _seed(context: Context, purpose: str) -> int:
    """Return a seed of its own for each epoch and purpose."""
    return seeding.derive(context.seed, context.epoch or 0, "train", purpose)
