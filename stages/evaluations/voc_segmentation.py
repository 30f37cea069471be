"""Voc-segmentation: Pascal VOC 2012, networks -> intersection over union of each class. Table 2."""

import base64
import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft, new_artifact
from deepcluster_core.artifacts.manifest import Stage
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.data.kept import Kept
from deepcluster_core.data.voc import Voc
from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.fine_tuning import Part
from deepcluster_core.evaluation.learner import Descent
from deepcluster_core.evaluation.segmentation.drawing import Shown, draw_masks
from deepcluster_core.evaluation.segmentation.fcn import Fcn, Mask, Transfer
from deepcluster_core.evaluation.segmentation.fitting import Loading, Masked, fit, judge
from deepcluster_core.evaluation.segmentation.mean_iu import (
    Counts,
    confusion,
    intersection_over_union,
    mean_iu,
)
from deepcluster_core.interrupts import HeldBack, held_back
from deepcluster_core.memory import keep_freed_memory
from deepcluster_core.models import Network, NetworkConfig
from deepcluster_core.precision import Precision, computed_in
from stages.evaluations.compared import RANDOM, compared, num_compared, supervised_digest
from stages.evaluations.protocol import PROTOCOLS, load_protocol
from stages.evaluations.results import RESULTS, Row, write_results
from stages.evaluations.saves import Saves

YEAR = 2012
PICTURE = "segmentation.png"

STAGE = Stage(
    name="voc-segmentation",
    version=1,
    kind="evaluations/voc-segmentation",
    files=(RESULTS, PICTURE),
    reads=("network", "protocol"),
)
SHIPPED: dict[Part, Path] = {
    "fc6-8": PROTOCOLS / "voc-segmentation.yaml",
    "all": PROTOCOLS / "voc-segmentation-all.yaml",
}
"""The protocol of each mode that deviates in nothing but what `ALWAYS` names."""
NO_DEVIATION = ("train", "select", "cache_bytes", "precision")
"""Keys that are told otherwise, or do not change the result."""
ALWAYS = (
    "the released code also trains on the 8,498 pictures of SBD, ImageNet's 48.0 among its results",
    "biases learn at the rate of weights and decay, instead of twice the rate and no decay",
    "dropout lies where the network has it: before fc6 and fc7 of AlexNet, not behind them",
    "pictures are taken pass after pass, each in a new order, instead of drawn anew",
)
"""What differs from the released code in every result, beside the network itself."""
HELD_OUT = 5  # a fifth of the pictures, which is 293 of VOC 2012's 1,464
SHOWN = 6  # judged pictures that are drawn
MASKS_SHARE = 4  # a quarter of the cache: a picture has three bytes for one of its mask
DOWNLOAD = "the organisers of Pascal VOC distribute it"


class VocSegmentationConfig(StrictConfig):
    """The protocol of table 2's segmentation, in one of its two modes."""

    train: Part
    """What is trained: the linear layers on frozen convolutions (fc6-8), or everything (all)."""

    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained in either mode. Its statistics
    stay those of the checkpoint."""

    training_list: str = Field(min_length=1)
    """Pictures to train on: a list of ImageSets/Segmentation. Who has put SBD's masks into the tree
    gives a list of theirs here, without those of `judged_list`."""

    judged_list: str = Field(min_length=1)
    """Pictures to judge."""

    select: bool
    """Hold out a fifth of the training list and judge that, to choose the other keys by: its
    pictures are chosen by the digest of their names. `judged_list` is then not read."""

    padding: NonNegativeInt
    """Pixels of the mean colour around a picture, so that fc6 reads whole windows at its border."""

    batch_size: PositiveInt
    """Pictures in a step."""

    iterations: PositiveInt
    """Steps."""

    lr: Annotated[FiniteFloat, Field(gt=0)]
    """Learning rate of all steps, for a loss that is the mean over the pixels of a picture."""

    momentum: float = Field(ge=0, lt=1)
    """Of all that is trained."""

    weight_decay: FiniteFloat = Field(ge=0)
    """L2 penalty on all that is trained."""

    cache_bytes: NonNegativeInt
    """Main memory for masks and, where convolutions are frozen, their maps of the pictures, else
    decoded pictures. What does not fit is computed each time. VOC 2012's 1,464 take 0.3 GB and 0.3
    (of AlexNet in bfloat16; 0.6 in float32) or 0.8."""

    precision: Precision
    """Number format of the forward pass; weights, scores of pixels and updates are float32."""

    def transfer(self) -> Transfer:
        """Return it as the core takes it: gradients of any length, and one learning rate."""
        descent = Descent(self.lr, 1.0, 1, self.momentum, self.weight_decay, math.inf)
        return Transfer(self.train, self.train_batch_norm, self.padding, descent)


CONFIG = VocSegmentationConfig


def data_digest(data: Path, protocol: VocSegmentationConfig) -> str:
    """Return a digest of what is read: lists, and names, sizes and times of pictures and masks.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    lists = [protocol.training_list] + ([] if protocol.select else [protocol.judged_list])
    return Voc(data, YEAR).fingerprint_listed(lists, "Segmentation")


def run(  # noqa: PLR0913  an evaluation takes its inputs by name
    *,
    network: NetworkConfig,
    protocol: VocSegmentationConfig,
    data: Path,
    checkpoint: Path | None,
    supervised: Path | None,
    channels: int,
    out: Path,
    context: Context,
) -> None:
    """Write a row for each class of each network, one for the mean over classes, and a picture.

    Args:
        network: of the run.
        protocol: how it is trained and judged.
        data: folder of Pascal VOC 2012, see `Voc`.
        checkpoint: of the epoch; None compares no trained network.
        supervised: a .safetensors file of weights of the same network, trained with labels.
        channels: what the network reads: 3, or 1 for pictures in grey.
        out: folder of the artifact.
        context: seed, epoch and place.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
        ConfigError: the network cannot be taken apart, see `Dense`.
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
        evaluation = _Evaluation(protocol, task, context, num_compared(checkpoint, supervised))
        with held_back() as held:
            saves = _Saves(draft, context, held)
            for name, model in networks:
                evaluation.evaluate(name, model, saves)
        draft.facts |= _facts(protocol, task, saves, context)
        draft.facts["deviations"] = _deviations(protocol, network, channels)
        evaluation.draw(saves, draft.folder / PICTURE)
        write_results(draft, saves.rows, protocol)


@dataclass(frozen=True)
class _Task:
    """What is learnt, and what it is judged on."""

    classes: tuple[str, ...]
    subsets: tuple[str, str]
    """What both are called."""
    training: Masked
    judged: Masked
    judged_names: tuple[str, ...]


def _open(data: Path, protocol: VocSegmentationConfig, channels: int) -> _Task:
    """Read the lists; pictures and masks are read when they are asked for.

    Raises:
        SourceError: see `Voc`; or a picture would be judged on which the network was trained.
    """
    voc = Voc(data, YEAR)
    names = voc.listed(protocol.training_list, "Segmentation")
    if protocol.select:
        training, judged = _held_out(names)
        subsets = (f"{protocol.training_list} but a fifth", f"a fifth of {protocol.training_list}")
    else:
        training, judged = names, voc.listed(protocol.judged_list, "Segmentation")
        subsets = (protocol.training_list, protocol.judged_list)
    if both := sorted(set(training) & set(judged)):
        raise SourceError(
            f"{voc.place}: {len(both)} pictures are in both lists, {subsets[0]} and {subsets[1]} "
            f"({both[0]} is the first): they would be judged after training on them.\n"
            f"  Fix: take them out of one of the lists in ImageSets/Segmentation."
        )

    def masked(names: Sequence[str], kept_bytes: int) -> Masked:
        masks_bytes = kept_bytes // MASKS_SHARE
        pictures_bytes = kept_bytes - masks_bytes if protocol.train == "all" else 0

        def picture(row: int) -> Mask:
            return voc.picture(names[row], channels=channels)

        def mask(row: int) -> Mask:
            return voc.mask(names[row])

        return Masked(
            Kept(picture, limit_bytes=pictures_bytes),
            Kept(mask, limit_bytes=masks_bytes),
            len(names),
        )

    return _Task(
        voc.mask_classes(),
        subsets,
        masked(training, protocol.cache_bytes),
        masked(judged, 0),  # looked at once
        tuple(judged),
    )


def _held_out(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names to train on, and the fifth that is held out: their order decides nothing."""
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(shuffled[: -(-len(names) // HELD_OUT)])
    training = tuple(name for name in names if name not in held_out)
    if not training:
        raise SourceError("one picture can be trained on or held out, but not both.")
    return training, tuple(sorted(held_out))


class _Saves(Saves):
    """Saves the masks that are drawn, too: a network is gone when the next one's turn comes."""

    def __init__(self, draft: Draft, context: Context, held: HeldBack) -> None:
        """See `Saves`."""
        super().__init__(draft, context.save_every, held)
        found: Mapping[str, Any] = draft.saved.facts if draft.saved else {}
        self.shown: dict[str, list[str]] = dict(found.get("shown", {}))
        """By network, PNG files in base 64: of six pictures 20 to 30 kB."""

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"shown": self.shown}


class _Evaluation:
    """Trains and judges one network after another on the same pictures in the same order."""

    def __init__(
        self, protocol: VocSegmentationConfig, task: _Task, context: Context, num_networks: int
    ) -> None:
        """Do nothing yet."""
        self._protocol, self._task, self._context = protocol, task, context
        # The same in every epoch.
        seed = seeding.derive(context.seed, "evaluations", STAGE.name)
        maps_bytes = protocol.cache_bytes - protocol.cache_bytes // MASKS_SHARE
        self._loading = Loading(protocol.batch_size, context.workers, seed, maps_bytes)
        chosen = seeding.numpy_generator(seed, "shown").permutation(task.judged.size)[:SHOWN]
        self._shown = sorted(chosen.tolist())
        self._done, self._of_training = 0, protocol.iterations * protocol.batch_size
        self._of_one = self._of_training + task.judged.size
        self._total = num_networks * self._of_one

    def evaluate(self, name: str, network: Network, saves: _Saves) -> None:
        """Put the rows of a network into `saves`, unless they are there."""
        if any(row["network"] == name for row in saves.rows):
            self._went(self._of_one)
            return
        model = Fcn(
            network,
            classes=len(self._task.classes),
            transfer=self._protocol.transfer(),
            device=self._context.device,
            precision=self._protocol.precision,
            seed=seeding.derive(self._loading.seed, "network"),
        )
        self._train(name, model, saves)
        counts_CC, saves.shown[name] = self._judge(name, model, saves)
        saves.finished(list(_rows(name, self._task.classes, counts_CC)))

    def draw(self, saves: _Saves, path: Path) -> None:
        """Write the picture: the trained network's masks first, then those it is compared with."""
        networks = sorted(saves.shown, key=lambda name: name == RANDOM)
        judged = self._task.judged
        rows = [
            Shown(
                self._task.judged_names[row],
                judged.picture(row),
                judged.mask(row),
                {name: _decoded(saves.shown[name][number]) for name in networks},
            )
            for number, row in enumerate(self._shown)
        ]
        Image.fromarray(draw_masks(rows, self._task.classes)).save(path)

    def _train(self, name: str, model: Fcn, saves: _Saves) -> None:
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

    def _judge(self, name: str, model: Fcn, saves: _Saves) -> tuple[Counts, list[str]]:
        num_classes = len(self._task.classes)
        counts_CC, shown = np.zeros((num_classes, num_classes), np.int64), list[str]()
        for row, truth_HW, found_HW in judge(model, self._task.judged, self._loading):
            counts_CC += confusion(truth_HW, found_HW, num_classes=num_classes)
            if row in self._shown:
                shown.append(_encoded(found_HW))
            self._went(1)
            saves.end_if_told(name, model, self._protocol.iterations)
        if not counts_CC.any():
            raise SourceError(
                f"no pixel of {self._task.subsets[1]} counts: all of its masks are void.\n"
                f"  Fix: give it masks with numbers of classes."
            )
        return counts_CC, shown

    def _went(self, num_images: int) -> None:
        self._done += num_images
        self._context.progress(self._done, self._total)


def _rows(network: str, classes: Sequence[str], counts_CC: Counts) -> Iterator[Row]:
    iu_C, pixels_C, found_C = (
        intersection_over_union(counts_CC),
        counts_CC.sum(axis=1),
        np.diagonal(counts_CC),
    )
    for name, iu, pixels, found in zip(classes, iu_C, pixels_C, found_C, strict=True):
        yield _row(network, name, iu, pixels, found)
    yield _row(network, "mean", mean_iu(iu_C), pixels_C.sum(), found_C.sum())


def _row(network: str, class_name: str, iu: float, pixels: int, found: int) -> Row:
    """Return a row: percent; true pixels of the class, and those of them that are found."""
    return {
        "network": network,
        "class": class_name,
        "iu": None if math.isnan(iu) else 100 * float(iu),
        "pixels": int(pixels),
        "found": int(found),
    }


def _encoded(mask_HW: Mask) -> str:
    buffer = BytesIO()
    Image.fromarray(mask_HW).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _decoded(text: str) -> Mask:
    return np.asarray(Image.open(BytesIO(base64.b64decode(text))))


def _facts(
    protocol: VocSegmentationConfig, task: _Task, saves: Saves, context: Context
) -> dict[str, Any]:
    """Return what the table does not say."""
    paper = load_protocol(SHIPPED[protocol.train], VocSegmentationConfig, {})
    seconds_per_step = saves.seconds_per_step
    means = {str(row["network"]): row for row in saves.rows if row["class"] == "mean"}
    return {
        "train": protocol.train,
        "trained_on": task.subsets[0],
        "judged_on": task.subsets[1],
        "classes": len(task.classes),
        "training_images": task.training.size,
        "judged_images": task.judged.size,
        "pixel_accuracy": {
            name: round(100 * float(row["found"] or 0) / float(row["pixels"] or 1), 2)
            for name, row in means.items()
        },
        "seconds_per_step": {name: round(s, 5) for name, s in seconds_per_step.items()},
        # What all networks would take to train in the full number of steps, on this machine.
        "hours_at_full_length": round(sum(seconds_per_step.values()) * paper.iterations / 3600, 2),
        "precision": computed_in(context.device, protocol.precision),
    }


def _deviations(
    protocol: VocSegmentationConfig, network: NetworkConfig, channels: int
) -> list[str]:
    """Say what differs from the released code: always, and by other keys than the shipped ones."""
    shipped = load_protocol(SHIPPED[protocol.train], VocSegmentationConfig, {})
    ours, theirs = protocol.model_dump(mode="json"), shipped.model_dump(mode="json")
    found = [
        f"{key}: {ours[key]} instead of {theirs[key]}"
        for key in ours
        if ours[key] != theirs[key] and key not in NO_DEVIATION
    ]
    if network.image_size != 224:
        found.append(f"a network for images of {network.image_size} px instead of 224")
    if channels != 3:
        found.append(f"pictures of {channels} channels instead of 3")
    return [*found, *ALWAYS]
