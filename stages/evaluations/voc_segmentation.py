"""Voc-segmentation: Pascal VOC 2012, networks -> intersection over union of each class. Table 2."""

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.context import Context
from deepcluster_core.data.decode import Pixels
from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.dataset import Voc
from deepcluster_core.evaluation.voc.image_cache import ImageCache
from deepcluster_core.evaluation.voc.segmentation.drawing import Shown, draw_masks
from deepcluster_core.evaluation.voc.segmentation.fcn import Fcn, Mask
from deepcluster_core.evaluation.voc.segmentation.fitting import Loading, Masked, fit, judge
from deepcluster_core.evaluation.voc.segmentation.mean_iu import (
    Counts,
    confusion,
    intersection_over_union,
    mean_iu,
)
from deepcluster_core.interrupts import HeldBack, held_back
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.precision import computed_in
from deepcluster_core.stage import External, stage
from stages.evaluations.compared import RANDOM, compared, num_compared
from stages.evaluations.declaration import Evaluation
from stages.evaluations.deviations import changed_keys
from stages.evaluations.protocol import load_protocol
from stages.evaluations.results import RESULTS, Row, write_results
from stages.evaluations.saves import Saves
from stages.evaluations.turns import Turns, pace
from stages.evaluations.voc_segmentation_protocol import SHIPPED, VocSegmentationConfig

YEAR = 2012
PICTURE = "segmentation.png"

NO_DEVIATION = ("train", "cache_bytes", "precision")
"""Keys that are told otherwise, or do not change the result."""
WITHOUT_SBD = "the released code trains on the 8,498 pictures of SBD instead of VOC's own"
ALWAYS = (
    "biases learn at the rate of weights and decay, instead of twice the rate and no decay",
    "dropout lies where the network has it: before fc6 and fc7 of AlexNet, not behind them",
    "pictures are taken pass after pass, each in a new order, instead of drawn anew",
)
"""What differs from the released code in every result, beside the network itself."""
HELD_OUT = 5  # a fifth of the pictures, which is 293 of VOC 2012's 1,464
SHOWN = 6  # judged pictures that are drawn
MASKS_SHARE = 4  # a quarter of the cache: a picture has three bytes for one of its mask


def data_digest(data: Path, protocol: VocSegmentationConfig) -> str:
    """Return a digest of what is read: lists, and names, sizes and times of pictures and masks.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    lists = [protocol.training_list] + ([] if protocol.select else [protocol.judged_list])
    return Voc(data, YEAR).fingerprint_listed(lists, "Segmentation")


@stage(
    name="voc-segmentation",
    version=1,
    kind="evaluations/voc-segmentation",
    files=(RESULTS, PICTURE),
)
def voc_segmentation(
    draft: Draft,
    network: NetworkConfig,
    protocol: VocSegmentationConfig,
    /,
    *,
    data: External,
    checkpoint: Path | None,
    supervised: External | None,
) -> None:
    """Write a row for each class of each network, one for the mean over classes, and a picture.

    Args:
        network: of the run.
        protocol: how it is trained and judged.
        data: folder of Pascal VOC 2012, see `Voc`.
        checkpoint: of the epoch; None compares no trained network.
        supervised: a .safetensors file of weights of the same network, trained with labels.
        channels: what the network reads: 3, or 1 for pictures in grey.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
        ConfigError: the network cannot be taken apart, see `Dense`.
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
    evaluation = _Evaluation(protocol, task, context)
    with held_back() as held:
        saves = _Saves(draft, context, held)
        turns = Turns(
            saves,
            context,
            networks=num_compared(checkpoint, supervised),
            iterations=protocol.iterations,
            batch_size=protocol.batch_size,
            judged=task.judged.size,
        )
        for name, model in networks:
            if not turns.is_over(name):
                counts_CC, saves.shown[name] = evaluation.counts(name, model, turns)
                saves.finished(list(_rows(name, task.classes, counts_CC)))
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
        training, judged = _held_out(names, voc.place)
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

        def picture(row: int) -> Pixels:
            return voc.picture(names[row], channels=channels)

        def mask(row: int) -> Mask:
            return voc.mask(names[row])

        return Masked(
            ImageCache(picture, limit_bytes=pictures_bytes),
            ImageCache(mask, limit_bytes=masks_bytes),
            len(names),
        )

    return _Task(
        voc.mask_classes(),
        subsets,
        masked(training, protocol.cache_bytes),
        masked(judged, 0),  # looked at once
        tuple(judged),
    )


def _held_out(names: Sequence[str], place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names to train on, and the fifth that is held out: their order decides nothing.

    Raises:
        SourceError: there is one alone.
    """
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(shuffled[: -(-len(names) // HELD_OUT)])
    training = tuple(name for name in names if name not in held_out)
    if not training:
        raise SourceError(
            f"{place}: the list to train on has one picture, and it cannot be held out, too.\n"
            f"  Fix: give it more, or leave select out."
        )
    return training, tuple(sorted(held_out))


class _Saves(Saves):
    """Saves the masks that are drawn, too: a network is gone when the next one's turn comes."""

    def __init__(self, draft: Draft, context: Context, held: HeldBack) -> None:
        """See `Saves`."""
        super().__init__(draft, context.save_every, held)
        found: Mapping[str, Any] = draft.saved.facts if draft.saved else {}
        self.shown: dict[str, list[str]] = dict(found.get("shown", {}))
        """By network, PNG files in base 64: of six pictures 20 to 30 kB."""

    def facts(self) -> dict[str, Any]:
        """Return what every save holds, as JSON values."""
        return super().facts() | {"shown": self.shown}


class _Evaluation:
    """Trains and judges networks on the same pictures in the same order."""

    def __init__(self, protocol: VocSegmentationConfig, task: _Task, context: Context) -> None:
        """Do nothing yet."""
        self._protocol, self._task, self._context = protocol, task, context
        # The same in every epoch.
        seed = seeding.derive(context.seed, "evaluations", "voc-segmentation")
        maps_bytes = protocol.cache_bytes - protocol.cache_bytes // MASKS_SHARE
        self._loading = Loading(protocol.batch_size, context.workers, seed, maps_bytes)
        chosen = seeding.numpy_generator(seed, "shown").permutation(task.judged.size)[:SHOWN]
        self._shown = sorted(chosen.tolist())

    def counts(self, name: str, network: Network, turns: Turns) -> tuple[Counts, list[str]]:
        """Return the pixels by true class and found one, and the masks that are drawn."""
        model = Fcn(
            network,
            classes=len(self._task.classes),
            transfer=self._protocol.transfer(),
            device=self._context.device,
            precision=self._protocol.precision,
            seed=seeding.derive(self._loading.seed, "network"),
        )
        iterations = self._protocol.iterations
        learn = partial(fit, model, self._task.training, self._loading, iterations=iterations)
        turns.train(name, model, learn)
        num_classes = len(self._task.classes)
        counts_CC, shown = np.zeros((num_classes, num_classes), np.int64), list[str]()
        found = judge(model, self._task.judged, self._loading)
        for row, truth_HW, found_HW in turns.judge(name, model, found):
            counts_CC += confusion(truth_HW, found_HW, num_classes=num_classes)
            if row in self._shown:
                shown.append(_encoded(found_HW))
        if not counts_CC.any():
            raise SourceError(
                f"no pixel of {self._task.subsets[1]} counts: all of its masks are void.\n"
                f"  Fix: give it masks with numbers of classes."
            )
        return counts_CC, shown

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
    shipped = load_protocol(SHIPPED[protocol.train], VocSegmentationConfig, {})
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
        "precision": computed_in(context.device, protocol.precision),
    } | pace(saves, full_iterations=shipped.iterations)


def _deviations(
    protocol: VocSegmentationConfig, network: NetworkConfig, channels: int
) -> list[str]:
    """Say what differs from the released code: always, and by other keys than the shipped ones."""
    found = changed_keys(protocol, SHIPPED[protocol.train], but=NO_DEVIATION)
    if network.image_size != 224:
        found.append(f"a network for images of {network.image_size} px instead of 224")
    if channels != 3:
        found.append(f"pictures of {channels} channels instead of 3")
    if not any(one.startswith("training_list") for one in found):
        found.append(WITHOUT_SBD)
    return [*found, *ALWAYS]


EVALUATION = Evaluation(
    voc_segmentation, data="dataset", fingerprint=data_digest, variants=("all",)
)
