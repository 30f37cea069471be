"""Voc-classification: Pascal VOC 2007, networks -> average precision of each class. Tables 2, 3."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

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
from deepcluster_core.interrupts import held_back
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.precision import computed_in
from deepcluster_core.stage import External, stage
from deepcluster_core.training.learner import Sgd
from stages.evaluations.compared import compared, num_compared
from stages.evaluations.declaration import Evaluation
from stages.evaluations.deviations import changed_keys
from stages.evaluations.protocol import PROTOCOLS, load_protocol
from stages.evaluations.results import RESULTS, Row, write_results
from stages.evaluations.saves import Saves
from stages.evaluations.turns import Turns, pace

SHIPPED: dict[Part, Path] = {
    "fc6-8": PROTOCOLS / "voc-classification.yaml",
    "all": PROTOCOLS / "voc-classification-all.yaml",
}
"""The paper's numbers for each mode."""
NO_DEVIATION = ("train", "cache_bytes", "precision")
"""Keys that are told otherwise, or do not change the result."""


class VocClassificationConfig(StrictConfig):
    """The protocol of table 2's classification, in one of its two modes."""

    train: Part
    """What is trained: the linear layers on frozen convolutions (fc6-8), or everything (all). The
    numbers below differ, see configs/evaluations/voc-classification-all.yaml."""

    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained in either mode. Its statistics
    stay those of the checkpoint."""

    select: bool
    """Train on train and report val, to choose the other keys by; else trainval and test."""

    batch_size: PositiveInt
    """Crops in a step."""

    iterations: PositiveInt
    """Steps."""

    lr: Annotated[FiniteFloat, Field(gt=0)]
    """Learning rate of the first step."""

    halve_every: PositiveInt
    """Steps after which it is half of what it was."""

    momentum: float = Field(ge=0, lt=1)
    """Of all that is trained."""

    weight_decay: FiniteFloat = Field(ge=0)
    """L2 penalty on all that is trained."""

    clip_norm: PositiveFloat
    """Gradients of a greater L2 norm, over all that is trained, are scaled to it."""

    weight_std: PositiveFloat
    """fc6, fc7 and fc8 begin anew, weights normal around 0 with this standard deviation. They are
    the linear layers behind the convolutions: smallnet's fc5 and fc6, fc8 alone for a ResNet."""

    bias: FiniteFloat
    """Their biases at the start."""

    crop_area: ShareRange
    """Least and greatest share of the picture's area that a crop covers."""

    crop_ratio: PositiveRange
    """Least and greatest width / height of a crop."""

    flip: float = Field(ge=0, le=1)
    """Probability that a crop is mirrored."""

    crops: PositiveInt | Literal["fixed"]
    """Of each picture that is judged, so many random crops of the same kind; their logits are
    summed. fixed: its corners and its centre at 256/224 of the image size, and the same mirrored,
    which is ten, unless flip is 0."""

    cache_bytes: NonNegativeInt
    """Main memory for decoded pictures; those that do not fit are decoded each time. All of VOC
    2007's 9,963 take 5.4 GB."""

    precision: Precision
    """Number format of the forward pass; weights, loss and updates are float32."""

    @property
    def subsets(self) -> tuple[str, str]:
        """Names of what is trained on and what is judged."""
        return ("train", "val") if self.select else ("trainval", "test")

    def tuning(self) -> Tuning:
        """Return it as the core takes it."""
        return Tuning(
            part=self.train,
            train_batch_norm=self.train_batch_norm,
            start=Start(self.weight_std, self.bias),
            sgd=Sgd(
                self.lr,
                self.momentum,
                self.weight_decay,
                lr_factor=0.5,
                lr_factor_every=self.halve_every,
                clip_norm=self.clip_norm,
            ),
        )


def data_digest(data: Path, protocol: VocClassificationConfig) -> str:
    """Return a digest of what is read: contents of lists, names, sizes and times of pictures.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    voc = Voc(data)
    return voc.fingerprint(protocol.subsets, voc.classes(*protocol.subsets))


@stage(
    name="voc-classification", version=1, kind="evaluations/voc-classification", files=(RESULTS,)
)
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
        network: of the run.
        protocol: how it is trained and judged.
        data: folder of Pascal VOC 2007, see `Voc`.
        checkpoint: of the epoch; None compares no trained network.
        supervised: a .safetensors file of weights of the same network, trained with labels.
        channels: what the network reads: 3, or 1 for pictures in grey.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    context, channels = draft.context, data.channels
    task = _open(data.path, protocol, channels)
    networks = compared(
        network,
        channels=channels,
        seed=context.seed,
        checkpoint=checkpoint,
        epoch=context.epoch,
        supervised=supervised,
    )
    with held_back() as held:
        saves = Saves(draft, context.save_every, held)
        evaluation = _Evaluation(protocol, network.image_size, task, context)
        turns = Turns(
            saves,
            context,
            networks=num_compared(checkpoint, supervised),
            iterations=protocol.iterations,
            batch_size=protocol.batch_size,
            judged=len(task.judged.mark_NC),
        )
        for name, model in networks:
            if not turns.is_over(name):
                saves.finished(evaluation.rows(name, model, turns))
    draft.facts |= _facts(protocol, task, saves, context)
    draft.facts["deviations"] = _deviations(protocol, network, channels)
    write_results(draft, saves.rows, protocol)


@dataclass(frozen=True)
class _Task:
    """What is learnt, and what it is judged on."""

    classes: tuple[str, ...]
    training: Marked
    judged: Marked


def _open(data: Path, protocol: VocClassificationConfig, channels: int) -> _Task:
    """Read the lists; pictures are read when they are asked for.

    Raises:
        SourceError: see `Voc`; or nothing that is judged shows one of the classes.
    """
    voc = Voc(data)
    classes = voc.classes(*protocol.subsets)
    both = [voc.marks(subset, classes) for subset in protocol.subsets]
    positives_C = (both[1].mark_NC == PRESENT).sum(axis=0)
    if not positives_C.all():
        raise SourceError(
            f"{voc.place}: no picture of {protocol.subsets[1]} shows a "
            f"{classes[positives_C.argmin()]} for sure, so that it has no average precision.\n"
            f"  Fix: give it some, or take its lists away."
        )
    num_images = sum(len(marks.names) for marks in both)

    def marked(marks: Marks) -> Marked:
        def read(row: int) -> NDArray[np.uint8]:
            return voc.picture(marks.names[row], channels=channels)

        limit = protocol.cache_bytes * len(marks.names) // num_images
        return Marked(ImageCache(read, limit_bytes=limit), marks.mark_NC)

    return _Task(classes, marked(both[0]), marked(both[1]))


class _Evaluation:
    """Trains and judges networks on the same crops."""

    def __init__(
        self, protocol: VocClassificationConfig, size: int, task: _Task, context: Context
    ) -> None:
        """Do nothing yet; `size` is that of the crops, pixels."""
        self._protocol, self._task, self._context = protocol, task, context
        random = RandomCrop(protocol.crop_area, protocol.crop_ratio, protocol.flip)
        self._loading = Loading(
            Crops(random, size, protocol.crops),
            batch_size=protocol.batch_size,
            workers=context.workers,
            # The same in every epoch.
            seed=seeding.derive(context.seed, "evaluations", "voc-classification"),
        )

    def rows(self, name: str, network: Network, turns: Turns) -> list[Row]:
        """Return the rows of a network."""
        model = FineTuned(
            network,
            outputs=len(self._task.classes),
            tuning=self._protocol.tuning(),
            device=self._context.device,
            precision=self._protocol.precision,
            seed=seeding.derive(self._loading.seed, "network"),
        )
        iterations = self._protocol.iterations
        learn = partial(fit, model, self._task.training, self._loading, iterations=iterations)
        turns.train(name, model, learn)
        batches = judge(model, self._task.judged, self._loading)
        logits_NC = np.concatenate(list(turns.judge(name, model, batches, size=len)))
        return list(_rows(name, self._task, logits_NC))


def _rows(network: str, task: _Task, logits_NC: NDArray[np.float32]) -> Iterator[Row]:
    mark_NC = task.judged.mark_NC
    precisions: list[float] = []
    for column, class_name in enumerate(task.classes):
        counts_N = mark_NC[:, column] != DIFFICULT
        is_right_N = mark_NC[counts_N, column] == PRESENT
        percent = 100 * average_precision(logits_NC[counts_N, column], is_right_N)
        precisions.append(percent)
        yield _row(network, class_name, percent, is_right_N)
    yield _row(network, "mean", float(np.mean(precisions)), mark_NC == PRESENT)


def _row(network: str, class_name: str, percent: float, is_right: NDArray[np.bool_]) -> Row:
    positives = int(is_right.sum())
    return {"network": network, "class": class_name, "ap": percent, "positives": positives}


def _facts(
    protocol: VocClassificationConfig, task: _Task, saves: Saves, context: Context
) -> dict[str, Any]:
    """Return what the table does not say."""
    paper = load_protocol(SHIPPED[protocol.train], VocClassificationConfig, {})
    return pace(saves, full_iterations=paper.iterations) | {
        "train": protocol.train,
        "trained_on": protocol.subsets[0],
        "judged_on": protocol.subsets[1],
        "classes": len(task.classes),
        "training_images": len(task.training.mark_NC),
        "judged_images": len(task.judged.mark_NC),
        "precision": computed_in(context.device, protocol.precision),
    }


def _deviations(
    protocol: VocClassificationConfig, network: NetworkConfig, channels: int
) -> list[str]:
    """Say what differs from the paper's protocol, as the shipped file of this mode has it."""
    found = changed_keys(protocol, SHIPPED[protocol.train], but=NO_DEVIATION)
    if network.image_size != 224:
        found.append(f"crops of {network.image_size} px instead of 224")
    if channels != 3:
        found.append(f"pictures of {channels} channels instead of 3")
    with torch.device("meta"):  # its layers, not their weights
        built = build_network(network, channels=channels, seed=0)
    if (renewed := len(last_linear_layers(built.backbone))) != 2:
        found.append(f"{renewed} linear layers renewed below fc8 instead of 2")
    return found


EVALUATION = Evaluation(
    voc_classification, data="dataset", fingerprint=data_digest, variants=("all",)
)
