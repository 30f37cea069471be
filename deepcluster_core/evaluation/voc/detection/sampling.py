"""Which regions of a picture a detector learns from, and what it should say of each.

Suffixes: P proposals, O objects, Q both, R regions that are taken; boxes have 4 values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

BACKGROUND = 0
"""Label of what is no object."""


@dataclass(frozen=True)
class Objects:
    """What a picture shows."""

    box_O4: Tensor
    """float32: left, top, right, bottom in pixels; right and bottom are outside."""
    label_O: Tensor
    """int64: 1 to the number of classes."""


@dataclass(frozen=True)
class Sampling:
    """How many regions of which kind."""

    regions: int
    """Of a picture, at most."""
    foreground: float
    """Share of them that may be of an object, 0 to 1."""
    object_iou: float
    """Regions that overlap an object so much or more are of it."""
    background_iou: float
    """Regions that overlap one so much or more, but less than that, are background."""


@dataclass(frozen=True)
class Sample:
    """Regions to learn from."""

    box_R4: Tensor
    label_R: Tensor
    target_R4: Tensor
    """The box of the object that a region overlaps most."""


def sample_regions(proposals_P4: Tensor, objects: Objects, sampling: Sampling) -> Sample:
    """Draw regions from proposals, and from the boxes of the objects themselves.

    As in Fast R-CNN, section 2.3, and its released code, which adds the objects. Draws from torch's
    global generator of the CPU, whatever the device.

    Args:
        proposals_P4: in the picture.
        objects: one at least; those that are to be learnt.
        sampling: how.
    """
    box_Q4 = torch.cat((objects.box_O4, proposals_P4))
    iou_Q, object_Q = box_iou(box_Q4, objects.box_O4).max(dim=1)
    is_object_Q = iou_Q >= sampling.object_iou
    is_background_Q = ~is_object_Q & (iou_Q >= sampling.background_iou)
    of_objects = _drawn(is_object_Q, round(sampling.foreground * sampling.regions))
    of_background = _drawn(is_background_Q, sampling.regions - len(of_objects))
    taken_R = torch.cat((of_objects, of_background))
    label_R = objects.label_O[object_Q[taken_R]]
    label_R[len(of_objects) :] = BACKGROUND
    return Sample(box_Q4[taken_R], label_R, objects.box_O4[object_Q[taken_R]])


def _drawn(is_possible_Q: Tensor, count: int) -> Tensor:
    """Return at most `count` of the possible rows, in random order."""
    rows = is_possible_Q.nonzero()[:, 0]
    return rows[torch.randperm(len(rows))[:count].to(rows.device)]
