"""Sampling of the regions that a detector learns from, with the label and the target of each.

Suffixes: P proposals, O objects, Q both together, R sampled regions; boxes have 4 values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepcluster_core.evaluation.voc.detection.boxes import overlaps

BACKGROUND = 0
"""Label of a region that does not show an object."""


@dataclass(frozen=True)
class Objects:
    """The objects that a picture shows."""

    box_O4: Tensor
    """float32: left, top, right, bottom in pixels; right and bottom are exclusive."""
    label_O: Tensor
    """int64: 1 to the number of classes."""


@dataclass(frozen=True)
class Sampling:
    """The numbers and kinds of regions to sample."""

    regions: int
    """Largest number of regions of a picture."""
    foreground: float
    """Largest share of these regions that may show an object, 0 to 1."""
    object_iou: float
    """Least intersection over union with an object at which a region counts as showing it."""
    background_iou: float
    """Least intersection over union with an object at which a region counts as background, if it
    stays below `object_iou`."""


@dataclass(frozen=True)
class Sample:
    """Regions to learn from."""

    box_R4: Tensor
    label_R: Tensor
    target_R4: Tensor
    """The box of the object that a region overlaps most."""


def sample_regions(proposals_P4: Tensor, objects: Objects, sampling: Sampling) -> Sample:
    """Draw regions from proposals and from the boxes of the objects themselves.

    This follows section 2.3 of Fast R-CNN, and its released code, which adds the objects. Numbers
    are drawn from torch's global generator of the CPU, regardless of the device.

    Args:
        proposals_P4: boxes within the picture.
        objects: at least one object, all of which are to be learnt.
        sampling: numbers and kinds of regions.
    """
    # The object that each box overlaps most, and by how much.
    box_Q4 = torch.cat((objects.box_O4, proposals_P4))
    iou_QO = overlaps(box_Q4, objects.box_O4)
    iou_Q, object_Q = iou_QO.max(dim=1)
    is_object_Q = iou_Q >= sampling.object_iou
    is_background_Q = ~is_object_Q & (iou_Q >= sampling.background_iou)

    # Background takes the places that the foreground leaves.
    most_foreground = round(sampling.foreground * sampling.regions)
    foreground = _draw(is_object_Q, most_foreground)
    background = _draw(is_background_Q, sampling.regions - len(foreground))
    drawn_R = torch.cat((foreground, background))
    object_R = object_Q[drawn_R]
    label_R = objects.label_O[object_R]
    label_R[len(foreground) :] = BACKGROUND
    return Sample(box_Q4[drawn_R], label_R, objects.box_O4[object_R])


def _draw(is_possible_Q: Tensor, count: int) -> Tensor:
    """Draw at most `count` of the possible rows, in random order."""
    rows = is_possible_Q.nonzero()[:, 0]
    # Drawn on the CPU, so that the order is equal on every device.
    places = torch.randperm(len(rows))[:count]
    return rows[places.to(rows.device)]
