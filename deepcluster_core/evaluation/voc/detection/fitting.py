"""Training a detector on pictures, and judging it on others.

Suffixes: M pictures drawn, O objects of a picture, P proposals.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepcluster_core import seeding
from deepcluster_core.data.decode import Pixels
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.evaluation.voc.detection.boxes import overlaps
from deepcluster_core.evaluation.voc.detection.detector import Detections, Detector, Example
from deepcluster_core.evaluation.voc.detection.sampling import Objects
from deepcluster_core.evaluation.voc.detection.scaling import Frame, Scale, clipped, scaled
from deepcluster_core.evaluation.voc.detection.verdicts import MIN_IOU
from deepcluster_core.training.learner import train_steps
from deepcluster_core.training.sampler import plain_order

Key = tuple[int, bool]
"""The row of a picture, and whether it is mirrored."""


@dataclass(frozen=True)
class Pictured:
    """Pictures, their objects and their proposals. All boxes are in pixels of the picture."""

    picture: Callable[[int], Pixels]
    """Function that returns picture 0 to N - 1, (H, W, C); called from several threads."""
    objects: Sequence[Objects]
    """Objects of the N pictures."""
    proposals: Callable[[int], Tensor] | None
    """Function that returns proposals_P4 of a picture; None if the detector proposes regions."""


@dataclass(frozen=True)
class Feeding:
    """The settings of loading pictures."""

    scale: Scale
    flip: float
    """Probability that a picture is mirrored in training, 0 to 1."""
    batch_size: int
    """Pictures in a step."""
    map_bytes: int
    """Main memory for maps, if training does not change them."""
    workers: int
    """Number of threads that load pictures."""
    seed: int
    """Seed of the order and the flips."""


@dataclass(frozen=True)
class Found:
    """The detections in a judged picture. Boxes are in pixels of the picture."""

    detections: Detections
    num_proposals: int
    proposed_O: list[bool]
    """Whether some proposal has an intersection over union of at least one half with the object."""


@dataclass(frozen=True)
class _Loaded:
    row: int
    flipped: bool
    original: tuple[int, int] | None
    """Original height and width of the picture; None if its map is kept."""
    picture_HWC: Pixels | None


class KeptMaps:
    """A cache of maps and frames by row and flip, in main memory, filled up to a limit.

    A map of AlexNet at 600 x 800 pixels takes 0.9 MB in bfloat16. All of VOC 2007's trainval and
    its mirror images take 9 GB, and 40,000 steps of two pictures read each map 8 times. Measured on
    two cores, in bfloat16 and with 2,000 proposals, a step takes 0.15 s with kept maps and 0.19 s
    without them; for VGG-16 it takes 0.30 s and 0.67 s.
    """

    def __init__(self, *, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes
        self._kept: dict[Key, tuple[Tensor, Frame]] = {}

    def __contains__(self, key: Key) -> bool:
        """Return whether a map is kept; it is never dropped again. Safe in any thread."""
        return key in self._kept

    def __getitem__(self, key: Key) -> tuple[Tensor, Frame]:
        """Return a map, in main memory, and its frame."""
        return self._kept[key]

    def offer(self, key: Key, map_1CHW: Tensor, frame: Frame) -> None:
        """Keep a map if it fits."""
        # A picture may be loaded a second time before its map is kept.
        if key in self._kept:
            return
        if map_1CHW.nbytes <= self._free_bytes:
            self._free_bytes -= map_1CHW.nbytes
            self._kept[key] = (map_1CHW.cpu(), frame)


def fit(
    model: Detector,
    training: Pictured,
    feeding: Feeding,
    *,
    iterations: int,
    start: int,
    after_step: Callable[[int], None],
) -> None:
    """Train on the pictures. Each pass over them has a new order.

    Pictures differ in size, and are neither cropped nor padded, so the pictures of a step are
    processed one after the other.

    Args:
        model: modified in place.
        training: N pictures with at least one object each.
        feeding: settings of loading.
        iterations: total number of steps.
        start: number of steps that are already completed.
        after_step: called with the number of completed steps. The model does not change meanwhile.

    Raises:
        TrainingError: the loss is not finite.
    """
    num_drawn = iterations * feeding.batch_size
    order = seeding.numpy_generator(feeding.seed, "order")
    order_M = plain_order(len(training.objects), num_drawn, order)
    draws_M = seeding.numpy_generator(feeding.seed, "flip").random(len(order_M))
    is_flipped_M = draws_M < feeding.flip
    kept = KeptMaps(limit_bytes=feeding.map_bytes)

    # Everything is drawn above, so a training can continue at any step.
    def load(step: int) -> list[_Loaded]:
        first = step * feeding.batch_size
        drawn = slice(first, first + feeding.batch_size)
        rows = order_M[drawn].tolist()
        flips = is_flipped_M[drawn].tolist()
        loaded: list[_Loaded] = []
        for row, flipped in zip(rows, flips, strict=True):
            is_kept = (row, flipped) in kept
            loaded.append(_load(training, feeding.scale, row, flipped, is_kept=is_kept))
        return loaded

    def learn(batch: list[_Loaded], step: int) -> Tensor:
        examples = [_example(model, training, loaded, kept) for loaded in batch]
        return model.learn(examples, step)

    steps = range(start, iterations)
    train_steps(load, learn, steps=steps, workers=feeding.workers, after_step=after_step)


def judge(model: Detector, judged: Pictured, feeding: Feeding) -> Iterator[Found]:
    """Yield the detections in each picture, in order."""

    def load(row: int) -> _Loaded:
        return _load(judged, feeding.scale, row, False, is_kept=False)

    rows = range(len(judged.objects))
    for loaded in ordered_map(load, rows, workers=feeding.workers):
        with torch.no_grad():
            map_1CHW, frame = _computed(model, loaded)
        given_P4 = _proposals(model, judged, loaded.row, frame)
        scaled_detections, proposals_P4 = model.detect(map_1CHW, frame.size, given_P4)

        # An object that no proposal overlaps enough cannot be found.
        box_O4 = judged.objects[loaded.row].box_O4.to(model.device)
        iou_OP = overlaps(frame.enter(box_O4), proposals_P4)
        is_proposed_O = (iou_OP >= MIN_IOU).any(dim=1)
        detections = Detections(
            box_K4=frame.leave(scaled_detections.box_K4).cpu(),
            label_K=scaled_detections.label_K.cpu(),
            score_K=scaled_detections.score_K.cpu(),
        )
        yield Found(detections, len(proposals_P4), is_proposed_O.tolist())


def _load(
    pictured: Pictured,
    scale: Scale,
    row: int,
    flipped: bool,
    *,
    is_kept: bool,
) -> _Loaded:
    """Load and scale a picture, unless its map is kept."""
    if is_kept:
        return _Loaded(row, flipped, None, None)
    picture_HWC = pictured.picture(row)
    height, width = picture_HWC.shape[:2]
    return _Loaded(row, flipped, (height, width), scaled(picture_HWC, scale))


def _computed(model: Detector, loaded: _Loaded) -> tuple[Tensor, Frame]:
    """Return the map of a picture, and its frame."""
    assert loaded.picture_HWC is not None
    assert loaded.original is not None
    height, width = loaded.picture_HWC.shape[:2]
    frame = Frame(loaded.original, (height, width), loaded.flipped)
    map_1CHW = model.map(loaded.picture_HWC, flipped=loaded.flipped)
    return map_1CHW, frame


def _example(
    model: Detector,
    training: Pictured,
    loaded: _Loaded,
    kept: KeptMaps,
) -> Example:
    """Return what a detector learns from a picture, with its map from the cache if possible."""
    key = (loaded.row, loaded.flipped)
    if loaded.picture_HWC is None:
        map_1CHW, frame = kept[key]
    elif model.has_fixed_maps:
        # Without gradients, the map can be kept and used in other steps.
        with torch.no_grad():
            map_1CHW, frame = _computed(model, loaded)
        kept.offer(key, map_1CHW, frame)
    else:
        map_1CHW, frame = _computed(model, loaded)
    objects = training.objects[loaded.row]
    box_O4 = objects.box_O4.to(model.device)
    label_O = objects.label_O.to(model.device)
    return Example(
        map_1CHW=map_1CHW.to(model.device),
        size=frame.size,
        objects=Objects(frame.enter(box_O4), label_O),
        proposals_P4=_proposals(model, training, loaded.row, frame),
    )


def _proposals(
    model: Detector,
    pictured: Pictured,
    row: int,
    frame: Frame,
) -> Tensor | None:
    """Return the given proposals in the scaled picture, if proposals are given."""
    if pictured.proposals is None:
        return None
    box_P4 = pictured.proposals(row).to(model.device)
    return clipped(frame.enter(box_P4), frame.size)
