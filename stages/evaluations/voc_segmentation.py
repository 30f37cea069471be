"""Voc-segmentation: Pascal VOC 2012, networks -> intersection over union of each class. Table 2."""

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

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
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.stage import External, stage
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
from stages.evaluations.shared.networks import RANDOM, ComparedNetworks
from stages.evaluations.shared.results import RESULTS, Row, write_results
from stages.evaluations.voc_segmentation_protocol import VocSegmentationConfig

NAME = "voc-segmentation"
YEAR = 2012
PICTURE = "segmentation.png"

NO_DEVIATION = ("train", "cache_bytes", "precision")
"""Keys that are reported elsewhere, or do not change the result."""
WITHOUT_SBD = "the released code trains on the 8,498 pictures of SBD instead of VOC's own"
ALWAYS = (
    "biases learn at the rate of weights and decay, instead of twice the rate and no decay",
    "dropout lies where the network has it: before fc6 and fc7 of AlexNet, not behind them",
    "pictures are taken pass after pass, each in a new order, instead of drawn anew",
)
"""Differences from the released code in every result, beside those of the network itself."""
HELD_OUT = 5  # one in five pictures, which is 293 of VOC 2012's 1,464
SHOWN = 6  # judged pictures that are drawn
MASKS_SHARE = 4  # masks get a quarter of the cache: a pixel has three bytes, and one in its mask
Judged = tuple[int, Mask, Mask]
"""The number of a picture, its true mask and its predicted mask."""


def data_digest(data: Path, protocol: VocSegmentationConfig) -> str:
    """Return a digest of the data set: its lists; names, sizes and times of pictures and masks.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
    """
    lists = [protocol.training_list]
    if not protocol.select:  # with select, the judged pictures come from the training list
        lists.append(protocol.judged_list)
    return Voc(data, YEAR).fingerprint_listed(lists, "Segmentation")


@stage(name=NAME, version=1, kind=f"evaluations/{NAME}", files=(RESULTS, PICTURE))
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
        draft: artifact of the evaluation.
        network: the run's architecture.
        protocol: how each network is trained and judged.
        data: folder of Pascal VOC 2012, see `Voc`.
        checkpoint: the epoch's checkpoint; None compares no trained network.
        supervised: .safetensors file of weights trained with true labels, to compare with.

    Raises:
        SourceError: the data set is missing, incomplete or damaged.
        ConfigError: the network cannot be split into convolutions and linear layers.
    """
    task = _open(data.path, protocol, data.channels)
    networks = ComparedNetworks(network, data.channels, draft.context, checkpoint, supervised)
    tuning = _Segmentation(protocol, task, draft.context)
    # Train and judge the networks, which takes hours and can be interrupted.
    finished = evaluate_each(draft, networks, tuning)
    tuning.draw(draft.folder / PICTURE)
    # Report how the numbers came about.
    split = Split(
        *task.subsets,
        classes=len(task.classes),
        training_images=task.training.size,
        judged_images=task.judged.size,
    )
    draft.facts |= facts_of(draft, NAME, protocol, finished, split)
    draft.facts["pixel_accuracy"] = _pixel_accuracy(finished.rows)
    draft.facts["deviations"] = _deviations(protocol, network, data.channels)
    write_results(draft, finished.rows, protocol)


@dataclass(frozen=True)
class _Task:
    """The pictures to train on and to judge on."""

    classes: tuple[str, ...]
    subsets: tuple[str, str]
    """Names of the two subsets, for facts and messages."""
    training: Masked
    judged: Masked
    judged_names: tuple[str, ...]


def _open(data: Path, protocol: VocSegmentationConfig, channels: int) -> _Task:
    """Read the lists. Pictures and masks are read when they are needed.

    Raises:
        SourceError: the data set is missing or damaged, or a picture is both trained on and judged
            on.
    """
    voc = Voc(data, YEAR)
    training_list = protocol.training_list
    names = voc.listed(training_list, "Segmentation")
    if protocol.select:
        training, judged = _held_out(names, voc.place)
        subsets = (f"{training_list} but a fifth", f"a fifth of {training_list}")
    else:
        training = names
        judged = voc.listed(protocol.judged_list, "Segmentation")
        subsets = (training_list, protocol.judged_list)
    shared = sorted(set(training) & set(judged))
    if shared:
        raise SourceError(
            f"{voc.place}: {len(shared)} pictures are in both lists, {subsets[0]} and {subsets[1]} "
            f"({shared[0]} is the first): they would be judged after training on them.\n"
            f"  Fix: take them out of one of the lists in ImageSets/Segmentation."
        )
    masks_bytes = protocol.cache_bytes // MASKS_SHARE
    # Decoded pictures are kept only if everything is trained. With frozen convolutions, their maps
    # are kept instead, see `Loading`.
    pictures_bytes = 0
    if protocol.train == "all":
        pictures_bytes = protocol.cache_bytes - masks_bytes
    return _Task(
        voc.mask_classes(),
        subsets,
        _masked(voc, training, channels, pictures_bytes, masks_bytes),
        _masked(voc, judged, channels, 0, 0),  # each network reads these once: nothing to cache
        tuple(judged),
    )


def _masked(
    voc: Voc, names: Sequence[str], channels: int, pictures_bytes: int, masks_bytes: int
) -> Masked:
    """Return pictures with their masks. They are read when needed, and kept within the limits."""

    def picture(row: int) -> Pixels:
        return voc.picture(names[row], channels=channels)

    def mask(row: int) -> Mask:
        return voc.mask(names[row])

    return Masked(
        ImageCache(picture, limit_bytes=pictures_bytes),
        ImageCache(mask, limit_bytes=masks_bytes),
        len(names),
    )


def _held_out(names: Sequence[str], place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names to train on and the held-out fifth, which does not depend on their order.

    Raises:
        SourceError: there is only one name.
    """
    # The digest of a name is as good as random, but identical on every machine.
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    num_held_out = math.ceil(len(names) / HELD_OUT)
    held_out = set(shuffled[:num_held_out])
    training = tuple(name for name in names if name not in held_out)
    if not training:
        raise SourceError(
            f"{place}: the list to train on has only one picture, so none can be held out.\n"
            f"  Fix: add pictures to the list, or leave select out."
        )
    return training, tuple(sorted(held_out))


class _Segmentation(FineTuning[Fcn, Judged]):
    """Trains and judges networks on the same pictures in the same order."""

    def __init__(self, protocol: VocSegmentationConfig, task: _Task, context: Context) -> None:
        super().__init__(
            iterations=protocol.iterations,
            batch_size=protocol.batch_size,
            num_judged=task.judged.size,
        )
        self._protocol = protocol
        self._task = task
        self._device = context.device
        # The seed does not depend on the epoch, so that results of epochs are comparable.
        seed = seeding.derive(context.seed, "evaluations", NAME)
        maps_bytes = protocol.cache_bytes - protocol.cache_bytes // MASKS_SHARE
        self._loading = Loading(protocol.batch_size, context.workers, seed, maps_bytes)
        # The pictures to show are chosen at random, and are identical in all epochs.
        shuffled = seeding.numpy_generator(seed, "shown").permutation(task.judged.size)
        self._shown = sorted(shuffled[:SHOWN].tolist())

    def build(self, network: Network) -> Fcn:
        """Return a fully convolutional network, built from a pretrained one."""
        return Fcn(
            network,
            classes=len(self._task.classes),
            transfer=self._protocol.transfer(),
            device=self._device,
            precision=self._protocol.precision,
            seed=seeding.derive(self._loading.seed, "network"),
        )

    def fitting(self, model: Fcn) -> Fit:
        """Return the function that trains the model."""
        return partial(fit, model, self._task.training, self._loading, iterations=self.iterations)

    def judge(self, model: Fcn) -> Iterable[Judged]:
        """Return an iterable of each picture's number, true mask and predicted mask."""
        return judge(model, self._task.judged, self._loading)

    def rows(self, name: str, found: Iterable[Judged]) -> Iterator[Row]:
        """Return the rows of all classes, and keep the masks that will be drawn.

        Raises:
            SourceError: every pixel of the judged masks is void.
        """
        num_classes = len(self._task.classes)
        counts_CC = np.zeros((num_classes, num_classes), np.int64)
        # Predicted masks are kept as PNG text, because every save holds them as JSON.
        masks: list[str] = []
        for row, truth_HW, found_HW in found:
            counts_CC += confusion(truth_HW, found_HW, num_classes=num_classes)
            if row in self._shown:
                masks.append(_encoded(found_HW))
        if not counts_CC.any():
            raise SourceError(
                f"{self._task.subsets[1]}: all of its masks are void, so no pixel can be judged.\n"
                f"  Fix: give it masks whose pixels are class numbers."
            )
        self.masks[name] = masks
        return _rows(name, self._task.classes, counts_CC)

    def draw(self, path: Path) -> None:
        """Draw the masks of all networks, those of the random network last."""
        networks = sorted(self.masks, key=lambda name: name == RANDOM)
        judged = self._task.judged
        pictures: list[Shown] = []
        for number, row in enumerate(self._shown):
            picture_name = self._task.judged_names[row]
            found = {name: _decoded(self.masks[name][number]) for name in networks}
            shown = Shown(picture_name, judged.picture(row), judged.mask(row), found)
            pictures.append(shown)
        Image.fromarray(draw_masks(pictures, self._task.classes)).save(path)


def _rows(network: str, classes: Sequence[str], counts_CC: Counts) -> Iterator[Row]:
    """Yield a row for each class, and one for their mean."""
    iu_C = intersection_over_union(counts_CC)
    pixels_C = counts_CC.sum(axis=1)
    found_C = np.diagonal(counts_CC)
    for name, iu, pixels, found in zip(classes, iu_C, pixels_C, found_C, strict=True):
        yield _row(network, name, iu, pixels, found)
    yield _row(network, "mean", mean_iu(iu_C), pixels_C.sum(), found_C.sum())


def _row(network: str, class_name: str, iu: float, pixels: int, found: int) -> Row:
    """Return a class's row: IoU in percent, its true pixels, and how many of them are found."""
    return {
        "network": network,
        "class": class_name,
        # NaN marks a class without true or predicted pixels.
        "iu": None if math.isnan(iu) else 100 * float(iu),
        "pixels": int(pixels),
        "found": int(found),
    }


def _encoded(mask_HW: Mask) -> str:
    """Return a mask as a PNG file in base 64."""
    buffer = BytesIO()
    Image.fromarray(mask_HW).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _decoded(text: str) -> Mask:
    data = base64.b64decode(text)
    return np.asarray(Image.open(BytesIO(data)))


def _pixel_accuracy(rows: Sequence[Row]) -> dict[str, float]:
    """Return the percentage of pixels that each network classifies correctly."""
    percents: dict[str, float] = {}
    for row in rows:
        # The mean row holds the sums over all classes.
        if row["class"] == "mean":
            found = float(row["found"] or 0)
            pixels = float(row["pixels"] or 1)
            percents[str(row["network"])] = round(100 * found / pixels, 2)
    return percents


def _deviations(
    protocol: VocSegmentationConfig, network: NetworkConfig, channels: int
) -> list[str]:
    """Return a sentence for each difference from the released code.

    Some come from keys that differ from the shipped protocol; the rest apply to all results.
    """
    found = changed_keys(protocol, shipped_path(NAME, protocol.train), but=NO_DEVIATION)
    if network.image_size != 224:
        found.append(f"a network for images of {network.image_size} px instead of 224")
    if channels != 3:
        found.append(f"pictures of {channels} channels instead of 3")
    # A training list of the user's own is reported by its key, and may well be that of SBD.
    has_own_list = any(sentence.startswith("training_list") for sentence in found)
    if not has_own_list:
        found.append(WITHOUT_SBD)
    return [*found, *ALWAYS]


EVALUATION = Evaluation(
    voc_segmentation,
    about="Pascal VOC 2012 segmentation by an FCN, fc6-8 trained, tables 2 and 3",
    data="dataset",
    fingerprint=data_digest,
    variants={"all": "Pascal VOC 2012 segmentation by an FCN, every layer trained, tables 2 and 3"},
    score=Score("iu", where={"class": "mean"}),
)
