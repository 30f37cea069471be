"""What linear and mlp share: classifiers on the frozen networks that an evaluation compares."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.config import Precision, StrictConfig
from deepcluster_core.evaluation.crops import Views
from deepcluster_core.evaluation.probes.classification import Plan, Score, Task, classify
from deepcluster_core.evaluation.probes.classifiers import ProbeSgd
from deepcluster_core.evaluation.probes.pooling import Frozen
from deepcluster_core.evaluation.probes.values import Examples, Supply
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
"""Keys that are told otherwise, or do not change the result of a layer."""
FEATURE = "last_relu"  # the layer of `Network` that puts out what its head reads

Decay = Annotated[FiniteFloat, Field(ge=0)]


class ProbingConfig(StrictConfig):
    """How classifiers on frozen features are trained and judged: section 4.3."""

    validation_fraction: float = Field(gt=0, lt=1)
    """Share of each class, 0 to 1, that is set aside to judge on, where no validation images are
    given."""

    resize: PositiveInt | Literal["auto"]
    """Pixels of the shorter side, from which crops of network.image_size are taken. auto: 256/224
    of that size, as in the released code; the crops move within the margin, so also small images
    have one."""

    random_crop: bool
    """Whether training crops lie anywhere in the central square, as in the released code, or all in
    its centre. Without them and without flips the values of an image never change: they are
    computed once and kept, if cache_bytes allows."""

    flip: float = Field(ge=0, le=1)
    """Probability of a horizontal flip in training. At 0, for images of which the mirrored one is
    another thing, as with digits, the mirrored half of the ten crops is left out as well."""

    epochs: PositiveInt
    """Passes over the training images."""

    batch_size: PositiveInt
    """Images in a step."""

    lr: Annotated[FiniteFloat, Field(gt=0)]
    """Learning rate in the first step; in step t, counted from 0, lr / sqrt(1 + lr · decay · t)."""

    momentum: float = Field(ge=0, lt=1)
    """Of the classifiers' weights."""

    weight_decays: Annotated[tuple[Decay, ...], Field(min_length=1)]
    """Candidates for the L2 penalty. Each layer takes the one that does best in cross-validation
    on the training images; one alone is taken as it is."""

    folds: Annotated[int, Field(ge=2)]
    """Of the cross-validation: for each of several candidates 1 + folds classifiers are trained,
    all at the same time, which takes 14 bytes of device memory per weight."""

    cache_bytes: NonNegativeInt
    """Main memory for values that never change: of the validation crops, and of the training views
    if they are fixed. What does not fit is computed again in every epoch."""

    precision: Precision
    """Number format of networks and classifiers; weights, loss and updates are float32."""

    def views_for(self, network: NetworkConfig) -> Views:
        """Return the views in pixels.

        Raises:
            ConfigError: no crop of the network's size fits.
        """
        size = network.image_size
        resize = resize_for(size, self.resize, only_centre=False)
        return Views(resize, size, random_crop=self.random_crop, flip=self.flip)


@dataclass(frozen=True)
class Shape:
    """Which classifiers are put on a network."""

    layers: tuple[str, ...]
    """Of the network, one classifier each."""
    hidden: tuple[int, ...] = ()
    """Units of each hidden layer of a classifier; linear ones have none."""
    dropout: float = 0.0
    """Probability before each layer of a classifier with hidden ones."""


@dataclass(frozen=True)
class ProbedImages:
    """Images artifacts to learn from and to judge on."""

    images: Path
    validation: Path | None
    """Another images artifact; None: a part of the first."""


@dataclass(frozen=True)
class Probing:
    """An evaluation by classifiers, linear or not, on each compared network."""

    draft: Draft
    network: NetworkConfig
    protocol: ProbingConfig
    images: ProbedImages
    checkpoint: Path | None
    supervised: External | None
    name: str
    """Of the evaluation."""

    def rows(self, shape_of: Callable[[Network], Shape]) -> list[dict[str, Any]]:
        """Return a row for each layer of each network, and set the facts.

        Args:
            shape_of: returns which classifiers to put on a network.
        """
        context = self.draft.context
        data = open_labelled(
            self.images.images,
            self.images.validation,
            validation_fraction=self.protocol.validation_fraction,
            seed=context.seed,
        )
        channels = data.training.pictures.channels
        task = Task(_examples(data.training), _examples(data.validation), len(data.classes))
        networks = ComparedNetworks(
            self.network, channels, context, self.checkpoint, self.supervised
        )
        images_each = self.protocol.epochs * len(task.training.class_N)
        counter = ProgressCounter(context, images_each * len(networks))
        rows = [
            {"network": name} | row
            for name, network in networks
            for row in self._rows(network, shape_of(network), task, counter)
        ]
        self.draft.facts |= {
            "classes": task.num_classes,
            "training_images": len(task.training.class_N),
            "validation_images": len(task.validation.class_N),
            "precision": computed_in(context.device, self.protocol.precision),
            "deviations": self._deviations(channels),
        }
        return rows

    def _deviations(self, channels: int) -> list[str]:
        """Say what differs from the protocol that is shipped, and from ImageNet's images."""
        shipped = PROTOCOLS / f"{self.name}.yaml"
        found = changed_keys(self.protocol, shipped, but=NO_DEVIATION)
        if self.images.validation is None:
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
        protocol, views = self.protocol, self.protocol.views_for(self.network)
        context = self.draft.context
        frozen = Frozen(
            network,
            shape.layers,
            size=views.size,
            device=context.device,
            precision=protocol.precision,
        )
        scores = classify(
            Supply(frozen, views, batch_size=protocol.batch_size, workers=context.workers),
            task,
            _plan(protocol, shape),
            seed=seeding.derive(context.seed, "evaluations", self.name),  # the same in every epoch
            after_batch=counter.advance,
        )
        return [
            {"layer": layer, "numbers": frozen.numbers[layer]}
            | _judged(score)
            | {"chance": 100 * task.chance}
            for layer, score in scores.items()
        ]


def _examples(labelled: Labelled) -> Examples:
    pictures, image_id_N = labelled.pictures, labelled.image_id_N
    return Examples(lambda row: pictures.verified(int(image_id_N[row])), labelled.class_N)


def _plan(protocol: ProbingConfig, shape: Shape) -> Plan:
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
    """Return the columns of a classifier: accuracies in percent, epochs counted from 0."""
    return {
        "weight_decay": score.decay,
        "top1_best": 100 * max(score.top1_N),
        "top1_last": 100 * score.top1_N[-1],
        "best_epoch": score.best_epoch,
    }
