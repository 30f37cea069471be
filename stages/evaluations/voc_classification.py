"""Voc-classification: Pascal VOC 2007, networks -> average precision of each class. Tables 2, 3."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.manifest import Stage
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.data.kept import Kept
from deepcluster_core.data.views import RandomCrop
from deepcluster_core.data.voc import DIFFICULT, PRESENT, Marks, Voc
from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.average_precision import average_precision
from deepcluster_core.evaluation.fine_tuning import FineTuned, Part, Start, Tuning
from deepcluster_core.evaluation.learner import Descent
from deepcluster_core.evaluation.multilabel import Crops, Loading, Marked, fit, judge
from deepcluster_core.interrupts import held_back
from deepcluster_core.memory import keep_freed_memory
from deepcluster_core.models import Network, NetworkConfig
from deepcluster_core.precision import Precision, computed_in
from stages.evaluations.compared import compared, num_compared, supervised_digest
from stages.evaluations.deviations import changed_keys
from stages.evaluations.protocol import PROTOCOLS, load_protocol
from stages.evaluations.results import RESULTS, Row, write_results
from stages.evaluations.saves import Saves

STAGE = Stage(
    name="voc-classification",
    version=1,
    kind="evaluations/voc-classification",
    files=(RESULTS,),
    reads=("network", "protocol"),
)
SHIPPED: dict[Part, Path] = {
    "fc6-8": PROTOCOLS / "voc-classification.yaml",
    "all": PROTOCOLS / "voc-classification-all.yaml",
}
"""The paper's numbers for each mode."""
NO_DEVIATION = ("train", "cache_bytes", "precision")
"""Keys that are told otherwise, or do not change the result."""

Share = Annotated[float, Field(gt=0, le=1)]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the least comes first, then the greatest")
    return pair


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

    crop_area: Annotated[tuple[Share, Share], AfterValidator(_ascending)]
    """Least and greatest share of the picture's area that a crop covers."""

    crop_ratio: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
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
            descent=Descent(
                self.lr, 0.5, self.halve_every, self.momentum, self.weight_decay, self.clip_norm
            ),
        )


CONFIG = VocClassificationConfig


def data_digest(data: Path, protocol: VocClassificationConfig) -> str:
    """Return a digest of what is read: contents of lists, names, sizes and times of pictures.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    voc = Voc(data)
    return voc.fingerprint(protocol.subsets, voc.classes(*protocol.subsets))


def run(  # noqa: PLR0913  an evaluation takes its inputs by name
    *,
    network: NetworkConfig,
    protocol: VocClassificationConfig,
    data: Path,
    checkpoint: Path | None,
    supervised: Path | None,
    channels: int,
    out: Path,
    context: Context,
) -> None:
    """Write a row for each class of each network, and one for the mean over classes.

    Args:
        network: of the run.
        protocol: how it is trained and judged.
        data: folder of Pascal VOC 2007, see `Voc`.
        checkpoint: of the epoch; None compares no trained network.
        supervised: a .safetensors file of weights of the same network, trained with labels.
        channels: what the network reads: 3, or 1 for pictures in grey.
        out: folder of the artifact.
        context: seed, epoch and place.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    with new_artifact(
        STAGE,
        out,
        config={"network": network, "protocol": protocol},
        inputs={
            "data": data_digest(data, protocol),
            "checkpoint": checkpoint,
            "supervised": supervised and supervised_digest(supervised),
        },
        context=context,
    ) as draft:
        keep_freed_memory()
        task = _open(data, protocol, channels)
        networks = compared(
            network,
            channels=channels,
            seed=context.seed,
            checkpoint=checkpoint,
            epoch=context.epoch,
            supervised=supervised,
        )
        num_networks = num_compared(checkpoint, supervised)
        evaluation = _Evaluation(protocol, network.image_size, task, context, num_networks)
        with held_back() as held:
            saves = Saves(draft, context.save_every, held)
            for name, model in networks:
                evaluation.evaluate(name, model, saves)
        draft.facts |= _facts(protocol, task, saves, context)
        draft.facts["deviations"] = _deviations(protocol, network, channels, evaluation.renewed)
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
        return Marked(Kept(read, limit_bytes=limit), marks.mark_NC)

    return _Task(classes, marked(both[0]), marked(both[1]))


class _Evaluation:
    """Trains and judges one network after another on the same crops."""

    def __init__(
        self,
        protocol: VocClassificationConfig,
        size: int,
        task: _Task,
        context: Context,
        num_networks: int,
    ) -> None:
        """Do nothing yet; `size` is that of the crops, pixels."""
        self._protocol, self._task, self._context = protocol, task, context
        random = RandomCrop(protocol.crop_area, protocol.crop_ratio, protocol.flip)
        self._loading = Loading(
            Crops(random, size, protocol.crops),
            batch_size=protocol.batch_size,
            workers=context.workers,
            # The same in every epoch.
            seed=seeding.derive(context.seed, "evaluations", STAGE.name),
        )
        self._done, self._of_training = 0, protocol.iterations * protocol.batch_size
        self._of_one = self._of_training + len(task.judged.mark_NC)
        self._total = num_networks * self._of_one
        self.renewed = 0
        """Linear layers of a network that began anew, beside fc8."""

    def evaluate(self, name: str, network: Network, saves: Saves) -> None:
        """Put the rows of a network into `saves`, unless they are there."""
        if any(row["network"] == name for row in saves.rows):
            self._went(self._of_one)
            return
        protocol = self._protocol
        model = FineTuned(
            network,
            outputs=len(self._task.classes),
            tuning=protocol.tuning(),
            device=self._context.device,
            precision=protocol.precision,
            seed=seeding.derive(self._loading.seed, "network"),
        )
        self.renewed = model.num_renewed
        self._train(name, model, saves)
        saves.finished(list(self._rows(name, model, saves)))

    def _train(self, name: str, model: FineTuned, saves: Saves) -> None:
        first, begun_s = saves.resume(name, model), time.perf_counter()
        self._went(first * self._loading.batch_size)

        def after_step(step: int) -> None:
            self._went(self._loading.batch_size)
            saves.seconds_per_step[name] = (time.perf_counter() - begun_s) / (step - first)
            saves.reached(name, model, step)

        fit(
            model,
            self._task.training,
            self._loading,
            iterations=self._protocol.iterations,
            start=first,
            after_step=after_step,
        )

    def _rows(self, name: str, model: FineTuned, saves: Saves) -> Iterator[Row]:
        batches: list[NDArray[np.float32]] = []
        for logits_BC in judge(model, self._task.judged, self._loading):
            batches.append(logits_BC)
            self._went(len(logits_BC))
            saves.end_if_told(name, model, self._protocol.iterations)
        logits_NC, mark_NC = np.concatenate(batches), self._task.judged.mark_NC
        precisions: list[float] = []
        for column, class_name in enumerate(self._task.classes):
            counts_N = mark_NC[:, column] != DIFFICULT
            is_right_N = mark_NC[counts_N, column] == PRESENT
            percent = 100 * average_precision(logits_NC[counts_N, column], is_right_N)
            precisions.append(percent)
            yield _row(name, class_name, percent, is_right_N)
        yield _row(name, "mean", float(np.mean(precisions)), mark_NC == PRESENT)

    def _went(self, num_images: int) -> None:
        self._done += num_images
        self._context.progress(self._done, self._total)


def _row(network: str, class_name: str, percent: float, is_right: NDArray[np.bool_]) -> Row:
    positives = int(is_right.sum())
    return {"network": network, "class": class_name, "ap": percent, "positives": positives}


def _facts(
    protocol: VocClassificationConfig, task: _Task, saves: Saves, context: Context
) -> dict[str, Any]:
    """Return what the table does not say."""
    paper = load_protocol(SHIPPED[protocol.train], VocClassificationConfig, {})
    seconds_per_step = saves.seconds_per_step
    return {
        "train": protocol.train,
        "trained_on": protocol.subsets[0],
        "judged_on": protocol.subsets[1],
        "classes": len(task.classes),
        "training_images": len(task.training.mark_NC),
        "judged_images": len(task.judged.mark_NC),
        "seconds_per_step": {name: round(s, 5) for name, s in seconds_per_step.items()},
        # What all networks would take to train in the paper's number of steps, on this machine.
        "hours_at_full_length": round(sum(seconds_per_step.values()) * paper.iterations / 3600, 2),
        "precision": computed_in(context.device, protocol.precision),
    }


def _deviations(
    protocol: VocClassificationConfig, network: NetworkConfig, channels: int, renewed: int
) -> list[str]:
    """Say what differs from the paper's protocol, as the shipped file of this mode has it."""
    found = changed_keys(protocol, SHIPPED[protocol.train], but=NO_DEVIATION)
    if network.image_size != 224:
        found.append(f"crops of {network.image_size} px instead of 224")
    if channels != 3:
        found.append(f"pictures of {channels} channels instead of 3")
    if renewed != 2:
        found.append(f"{renewed} linear layers renewed below fc8 instead of 2")
    return found
