"""Classifiers on the features of frozen networks: the common part of linear and mlp."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.config import Precision, StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.data.views import Pixels
from deepcluster_core.device_feed.feed import Feed
from deepcluster_core.evaluation.crops import Views
from deepcluster_core.evaluation.probes.classification import Plan, Score, Task, classify
from deepcluster_core.evaluation.probes.classifiers import ProbeSgd
from deepcluster_core.evaluation.probes.pooling import Frozen
from deepcluster_core.evaluation.probes.values import Examples, Fed, Supply
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.precision import computed_in
from deepcluster_core.stage import External
from stages.evaluations.shared.deviations import changed_keys
from stages.evaluations.shared.labelled import Labelled, open_labelled
from stages.evaluations.shared.networks import ComparedNetworks
from stages.evaluations.shared.progress import ProgressCounter
from stages.evaluations.shared.protocol import PROTOCOLS
from stages.evaluations.shared.resize import resize_for

AUTO = "auto"
NO_DEVIATION = ("layers", "validation_fraction", "cache_bytes", "precision")
"""Keys that are reported elsewhere, or do not change the result of a layer."""
FEATURE = "last_relu"
"""The layer of `Network` whose output the head reads."""

Decay = Annotated[FiniteFloat, Field(ge=0)]


class ProbingConfig(StrictConfig):
    """The protocol of classifiers on frozen features, after section 4.3 of the paper."""

    validation_fraction: float = Field(gt=0, lt=1)
    """Share of each class, 0 to 1, that is set aside to judge on if no validation images are
    given."""

    resize: PositiveInt | Literal["auto"]
    """Length to which the shorter side is resized before crops of network.image_size are taken,
    pixels. auto: 256/224 of that size, as in the released code. Crops move within this margin, so
    small images keep one, too."""

    random_crop: bool
    """Whether training crops lie anywhere in the central square, as in the released code, or always
    in its centre. Without random crops and flips the values of an image never change, so they are
    computed once and kept, if cache_bytes allows."""

    flip: float = Field(ge=0, le=1)
    """Probability of a horizontal flip in training. Set it to 0 for images whose mirror image means
    something else, such as digits; the mirrored half of the ten crops is then left out as well."""

    epochs: PositiveInt
    """Passes over the training images."""

    batch_size: PositiveInt
    """Images in a step."""

    lr: Annotated[FiniteFloat, Field(gt=0)]
    """Learning rate in the first step; in step t, counted from 0, lr / sqrt(1 + lr · decay · t)."""

    momentum: float = Field(ge=0, lt=1)
    """Momentum of SGD on the classifiers' weights."""

    weight_decays: Annotated[tuple[Decay, ...], Field(min_length=1)]
    """Candidates for the L2 penalty. Each layer takes the one that does best in cross-validation
    on the training images; a single candidate is taken without cross-validation."""

    folds: Annotated[int, Field(ge=2)]
    """Folds of the cross-validation. With several candidates, 1 + folds classifiers are trained for
    each of them, all at once, which takes 14 bytes of device memory per weight."""

    cache_bytes: NonNegativeInt
    """Main memory for values that never change: those of the validation crops and, if training
    views are fixed, of these as well. Values that do not fit are computed again in every epoch."""

    precision: Precision
    """Number format of networks and classifiers; weights, loss and updates are float32."""

    def on_ranks(self) -> str:
        """Return what several ranks share, and what the first one does alone."""
        if self.random_crop or self.flip > 0:
            return (
                "the first one trains the classifiers, on crops that it draws anew for each step "
                "(random_crop, flip); all compute the values of fixed crops"
            )
        return "all compute the values of images; the first one trains the classifiers on them"

    def views_for(self, network: NetworkConfig) -> Views:
        """Return how views are cut for a network, in pixels.

        Raises:
            ConfigError: crops of the network's image size do not fit into the resized image.
        """
        size = network.image_size
        resize = resize_for(size, self.resize, only_centre=False)
        return Views(resize, size, random_crop=self.random_crop, flip=self.flip)


@dataclass(frozen=True)
class Shape:
    """The classifiers that are trained on a network."""

    layers: tuple[str, ...]
    """Layers of the network; each gets one classifier."""
    hidden: tuple[int, ...] = ()
    """Units of each hidden layer of a classifier; empty for a linear classifier."""
    dropout: float = 0.0
    """Dropout probability before each layer of a classifier that has hidden layers."""


@dataclass(frozen=True)
class Probing:
    """An evaluation that trains classifiers on each compared network."""

    name: str
    """Name of the evaluation."""
    draft: Draft
    network: NetworkConfig
    protocol: ProbingConfig
    images: Path
    """The images artifact to train on."""
    validation: Path | None
    """A second images artifact to judge on; None: a part of the first is set aside."""
    checkpoint: Path | None
    supervised: External | None

    def rows(self, shape_of: Callable[[Network], Shape]) -> list[dict[str, Any]]:
        """Return a row for each layer of each network, and set the facts of the artifact.

        Only the first rank has rows; the others compute values for it.

        Args:
            shape_of: returns the classifiers to train on a network.
        """
        context = self.draft.context
        data = open_labelled(
            self.images,
            self.validation,
            validation_fraction=self.protocol.validation_fraction,
            seed=context.seed,
        )
        channels = data.training.pictures.channels
        training = _examples(data.training, self.network, context)
        validation = _examples(data.validation, self.network, context)
        task = Task(training, validation, len(data.classes))
        networks = ComparedNetworks(
            self.network, channels, context, self.checkpoint, self.supervised
        )
        # Progress counts training images, because training takes most of the time.
        num_training = len(training.class_N)
        images_each = self.protocol.epochs * num_training
        counter = ProgressCounter(context, images_each * len(networks))
        # Train on one network at a time, so that memory holds one.
        rows: list[dict[str, Any]] = []
        for name, network in networks:
            for row in self._rows(network, shape_of(network), task, counter):
                rows.append({"network": name} | row)
        self.draft.facts |= {
            "classes": task.num_classes,
            "training_images": num_training,
            "validation_images": len(validation.class_N),
            "precision": computed_in(context.device, self.protocol.precision),
            "deviations": self._deviations(channels),
        }
        return rows

    def _deviations(self, channels: int) -> list[str]:
        """Return a sentence for each difference from the shipped protocol and from ImageNet."""
        shipped = PROTOCOLS / f"{self.name}.yaml"
        found = changed_keys(self.protocol, shipped, but=NO_DEVIATION)
        # The paper validates on ImageNet's 50,000 validation images, in colour crops of 224 px.
        if self.validation is None:
            found.append("judged on a part of the run's images instead of a validation set")
        if self.network.image_size != 224:
            found.append(f"crops of {self.network.image_size} px instead of 224")
        if channels != 3:
            found.append(f"images of {channels} channels instead of 3")
        return found

    def _rows(
        self, network: Network, shape: Shape, task: Task, counter: ProgressCounter
    ) -> list[dict[str, Any]]:
        """Return a row for each layer of one network."""
        protocol = self.protocol
        views = protocol.views_for(self.network)
        context = self.draft.context
        frozen = Frozen(
            network,
            shape.layers,
            size=views.size,
            device=context.device,
            precision=protocol.precision,
        )
        supply = Supply(
            frozen,
            views,
            batch_size=protocol.batch_size,
            workers=context.workers,
            ranks=context.ranks,
        )
        # The classifiers of all layers are trained together, so a view passes the network once.
        scores = classify(
            supply,
            task,
            _plan(protocol, shape),
            # The seed does not depend on the epoch, so that results of epochs are comparable.
            seed=seeding.derive(context.seed, "evaluations", self.name),
            after_batch=counter.advance,
        )
        rows: list[dict[str, Any]] = []
        for layer, score in scores.items():
            row = {
                "layer": layer,
                "numbers": frozen.numbers[layer],
                **_judged(score),
                "chance": 100 * task.chance,
            }
            rows.append(row)
        return rows


def _examples(labelled: Labelled, network: NetworkConfig, context: Context) -> Examples:
    """Return labelled images by row, as the probes read them."""
    fed = None
    if context.is_fed_on_device(labelled.pictures.shorter_side):
        feed = Feed.of(labelled.pictures, network, context, is_verified=True)
        fed = Fed(feed, labelled.image_id_N)

    def picture(row: int) -> Pixels:
        image_id = int(labelled.image_id_N[row])
        return labelled.pictures.verified(image_id)

    return Examples(picture, labelled.class_N, fed)


def _plan(protocol: ProbingConfig, shape: Shape) -> Plan:
    """Return the settings of the training, as the core needs them."""
    return Plan(
        epochs=protocol.epochs,
        sgd=ProbeSgd(protocol.lr, protocol.momentum),
        decays=protocol.weight_decays,
        folds=protocol.folds,
        hidden=shape.hidden,
        dropout=shape.dropout,
        cache_bytes=protocol.cache_bytes,
    )


def _judged(score: Score) -> dict[str, float | int]:
    """Return a classifier's columns of the results: accuracies in percent, epochs from 0."""
    return {
        "weight_decay": score.decay,
        # The best epoch is chosen on the validation images, so this number is optimistic.
        "top1_best": 100 * max(score.top1_N),
        "top1_last": 100 * score.top1_N[-1],
        "best_epoch": score.best_epoch,
    }
