"""Voc-classification: Pascal VOC 2007, networks -> average precision of each class. Tables 2, 3."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.config import PositiveRange, Precision, ShareRange, StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.data.views import RandomCrop
from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.average_precision import average_precision
from deepcluster_core.evaluation.voc.classification import Crops, Loading, Marked, fit, judge
from deepcluster_core.evaluation.voc.dataset import DIFFICULT, PRESENT, Marks, Voc
from deepcluster_core.evaluation.voc.fine_tuning import (
    FineTuned,
    Part,
    Start,
    Tuning,
    last_linear_layers,
)
from deepcluster_core.evaluation.voc.image_cache import ImageCache
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.stage import External, stage
from deepcluster_core.training.learner import Sgd
from stages.evaluations.declaration import Evaluation, Score
from stages.evaluations.shared.deviations import changed_keys
from stages.evaluations.shared.fine_tuning import (
    FineTuning,
    Fit,
    Split,
    evaluate_each,
    facts_of,
    shipped_path,
)
from stages.evaluations.shared.networks import ComparedNetworks
from stages.evaluations.shared.results import RESULTS, Row, write_results

NAME = "voc-classification"
NO_DEVIATION = ("train", "cache_bytes", "precision")
"""Keys that are reported elsewhere, or do not change the result."""


class VocClassificationConfig(StrictConfig):
    """The protocol of table 2's classification, in one of its two modes."""

    train: Part
    """What is trained: the linear layers on frozen convolutions (fc6-8), or everything (all). The
    other keys depend on it, see configs/evaluations/voc-classification-all.yaml."""

    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained, in either mode. The running
    statistics stay those of the checkpoint."""

    select: bool
    """Whether to train on train and judge on val, for choosing the other keys. If not, train on
    trainval and judge on test."""

    batch_size: PositiveInt
    """Crops in a step."""

    iterations: PositiveInt
    """Training steps."""

    lr: Annotated[FiniteFloat, Field(gt=0)]
    """Learning rate of the first step."""

    halve_every: PositiveInt
    """Steps after which the learning rate is halved, again and again."""

    momentum: float = Field(ge=0, lt=1)
    """Momentum of SGD."""

    weight_decay: FiniteFloat = Field(ge=0)
    """L2 penalty on all trained parameters."""

    clip_norm: PositiveFloat
    """Largest L2 norm of the gradients of all trained parameters; greater ones are scaled down."""

    weight_std: PositiveFloat
    """Standard deviation of the normal distribution around 0 that initialises the weights of fc6,
    fc7 and fc8. These are the linear layers behind the convolutions: fc5 and fc6 for smallnet, only
    fc8 for a ResNet."""

    bias: FiniteFloat
    """Initial bias of these layers."""

    crop_area: ShareRange
    """Least and greatest share of the picture's area that a crop covers, 0 to 1."""

    crop_ratio: PositiveRange
    """Least and greatest width / height of a crop."""

    flip: float = Field(ge=0, le=1)
    """Probability that a crop is mirrored."""

    crops: PositiveInt | Literal["fixed"]
    """Number of random crops, drawn as in training, whose logits are summed to judge a picture.
    fixed: the corners and the centre at 256/224 of the image size and, unless flip is 0, their
    mirror images, which makes ten."""

    cache_bytes: NonNegativeInt
    """Main memory for decoded pictures; those that do not fit are decoded each time. All 9,963
    pictures of VOC 2007 take 5.4 GB."""

    precision: Precision
    """Number format of the forward pass; weights, loss and updates are float32."""

    @property
    def subsets(self) -> tuple[str, str]:
        """The names of the subsets to train on and to judge on."""
        if self.select:
            return "train", "val"
        return "trainval", "test"

    def tuning(self) -> Tuning:
        """Return the settings of the training, as the core needs them."""
        return Tuning(
            part=self.train,
            train_batch_norm=self.train_batch_norm,
            start=Start(self.weight_std, self.bias),
            sgd=Sgd(
                self.lr,
                self.momentum,
                self.weight_decay,
                lr_factor=0.5,  # what `halve_every` promises
                lr_factor_every=self.halve_every,
                clip_norm=self.clip_norm,
            ),
        )


def data_digest(data: Path, protocol: VocClassificationConfig) -> str:
    """Return a digest of the data set: contents of lists; names, sizes and times of pictures.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    voc = Voc(data)
    return voc.fingerprint(protocol.subsets, voc.classes(*protocol.subsets))


@stage(name=NAME, version=1, kind=f"evaluations/{NAME}", files=(RESULTS,))
def voc_classification(
    draft: Draft,
    network: NetworkConfig,
    protocol: VocClassificationConfig,
    /,
    *,
    data: External,
    checkpoint: Path | None,
    supervised: External | None,
) -> None:
    """Write a row for each class of each network, and one for the mean over classes.

    Args:
        draft: artifact of the evaluation.
        network: the run's architecture.
        protocol: how each network is trained and judged.
        data: folder of Pascal VOC 2007, see `Voc`.
        checkpoint: the epoch's checkpoint; None compares no trained network.
        supervised: .safetensors file of weights trained with true labels, to compare with.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    task = _open(data.path, protocol, data.channels)
    networks = ComparedNetworks(network, data.channels, draft.context, checkpoint, supervised)
    tuning = _Classification(protocol, network.image_size, task, draft.context)
    # Train and judge the networks, which takes hours and can be interrupted.
    finished = evaluate_each(draft, networks, tuning)
    # Report how the numbers came about.
    split = Split(
        *protocol.subsets,
        classes=len(task.classes),
        training_images=len(task.training.mark_NC),
        judged_images=len(task.judged.mark_NC),
    )
    draft.facts |= facts_of(draft, NAME, protocol, finished, split)
    draft.facts["deviations"] = _deviations(protocol, network, data.channels)
    write_results(draft, finished.rows, protocol)


@dataclass(frozen=True)
class _Task:
    """The pictures to train on and to judge on."""

    classes: tuple[str, ...]
    training: Marked
    judged: Marked


def _open(data: Path, protocol: VocClassificationConfig, channels: int) -> _Task:
    """Read the lists. Pictures are read when they are needed.

    Raises:
        SourceError: the data set is missing or damaged, or none of the judged pictures shows one of
            the classes.
    """
    voc = Voc(data)
    training_subset, judged_subset = protocol.subsets
    classes = voc.classes(training_subset, judged_subset)
    training_marks = voc.marks(training_subset, classes)
    judged_marks = voc.marks(judged_subset, classes)
    # Average precision is defined only for classes that at least one judged picture shows.
    positives_C = (judged_marks.mark_NC == PRESENT).sum(axis=0)
    if not positives_C.all():
        missing_class = classes[positives_C.argmin()]
        raise SourceError(
            f"{voc.place}: no picture of {judged_subset} shows a {missing_class} for sure, so that "
            f"it has no average precision.\n"
            f"  Fix: give it some, or take its lists away."
        )
    num_images = len(training_marks.names) + len(judged_marks.names)

    def marked(marks: Marks) -> Marked:
        def read(row: int) -> NDArray[np.uint8]:
            return voc.picture(marks.names[row], channels=channels)

        # Each subset gets its share of the cache, by its number of pictures.
        limit = protocol.cache_bytes * len(marks.names) // num_images
        return Marked(ImageCache(read, limit_bytes=limit), marks.mark_NC)

    return _Task(classes, marked(training_marks), marked(judged_marks))


class _Classification(FineTuning[FineTuned, NDArray[np.float32]]):
    """Trains and judges networks on the same crops."""

    def __init__(
        self, protocol: VocClassificationConfig, size: int, task: _Task, context: Context
    ) -> None:
        """Store the settings; `size` is the side of the crops, pixels."""
        super().__init__(
            iterations=protocol.iterations,
            batch_size=protocol.batch_size,
            num_judged=len(task.judged.mark_NC),
        )
        self._protocol = protocol
        self._task = task
        self._device = context.device
        random = RandomCrop(protocol.crop_area, protocol.crop_ratio, protocol.flip)
        self._loading = Loading(
            Crops(random, size, protocol.crops),
            batch_size=protocol.batch_size,
            workers=context.workers,
            # The seed does not depend on the epoch, so that results of epochs are comparable.
            seed=seeding.derive(context.seed, "evaluations", NAME),
        )

    def build(self, network: Network) -> FineTuned:
        """Return the network with new linear layers."""
        return FineTuned(
            network,
            outputs=len(self._task.classes),
            tuning=self._protocol.tuning(),
            device=self._device,
            precision=self._protocol.precision,
            seed=seeding.derive(self._loading.seed, "network"),
        )

    def fitting(self, model: FineTuned) -> Fit:
        """Return the function that trains the model."""
        return partial(fit, model, self._task.training, self._loading, iterations=self.iterations)

    def judge(self, model: FineTuned) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each picture, one per class."""
        for logits_BC in judge(model, self._task.judged, self._loading):
            yield from logits_BC

    def rows(self, name: str, found: Iterable[NDArray[np.float32]]) -> Iterator[Row]:
        """Yield a row with the average precision of each class, and one with their mean.

        A class is not judged on pictures in which it is marked as difficult.
        """
        logits_NC = np.stack(list(found))
        mark_NC = self._task.judged.mark_NC
        precisions: list[float] = []
        # Each class is a ranking of its own: does a picture show it or not?
        for column, class_name in enumerate(self._task.classes):
            counts_N = mark_NC[:, column] != DIFFICULT
            is_right_N = mark_NC[counts_N, column] == PRESENT
            class_logits_N = logits_NC[counts_N, column]
            percent = 100 * average_precision(class_logits_N, is_right_N)
            precisions.append(percent)
            yield _row(name, class_name, percent, is_right_N)
        mean_percent = float(np.mean(precisions))
        yield _row(name, "mean", mean_percent, mark_NC == PRESENT)


def _row(network: str, class_name: str, percent: float, is_right: NDArray[np.bool_]) -> Row:
    """Return a class's row: average precision in percent, and how many pictures show the class."""
    positives = int(is_right.sum())
    return {"network": network, "class": class_name, "ap": percent, "positives": positives}


def _deviations(
    protocol: VocClassificationConfig, network: NetworkConfig, channels: int
) -> list[str]:
    """Return a sentence for each difference from the shipped file of this mode, or from the paper.

    The shipped file holds the paper's protocol.
    """
    found = changed_keys(protocol, shipped_path(NAME, protocol.train), but=NO_DEVIATION)
    # AlexNet in the paper reads colour crops of 224 px, and has fc6 and fc7 below fc8.
    if network.image_size != 224:
        found.append(f"crops of {network.image_size} px instead of 224")
    if channels != 3:
        found.append(f"pictures of {channels} channels instead of 3")
    # On the meta device the network has layers, but allocates no weights.
    with torch.device("meta"):
        built = build_network(network, channels=channels, seed=0)
    num_renewed = len(last_linear_layers(built.backbone))
    if num_renewed != 2:
        found.append(f"{num_renewed} linear layers renewed below fc8 instead of 2")
    return found


EVALUATION = Evaluation(
    voc_classification,
    about="Pascal VOC 2007 classification, fc6-8 trained, tables 2 and 3",
    data="dataset",
    fingerprint=data_digest,
    variants={"all": "Pascal VOC 2007 classification, every layer trained, tables 2 and 3"},
    score=Score("ap", where={"class": "mean"}),
)
