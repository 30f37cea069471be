"""torchvision's operations on boxes, imported when they are first used.

torchvision.ops imports torch's compiler, for 2 s of CPU time, and whoever lists the evaluations
imports this package.
"""

# ruff: noqa: PLC0415  see above

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from torchvision.models.detection._utils import BoxCoder


def overlaps(box_N4: Tensor, box_M4: Tensor) -> Tensor:
    """Return iou_NM, the area that two boxes share, divided by the area that they cover."""
    from torchvision.ops import box_iou

    return box_iou(box_N4, box_M4)


def clipped_to(box_N4: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (…, 4), clipped to a picture of this height and width; they can become empty."""
    from torchvision.ops import clip_boxes_to_image

    return clip_boxes_to_image(box_N4, size)


def best_of_overlapping(box_N4: Tensor, score_N: Tensor, label_N: Tensor, iou: float) -> Tensor:
    """Return the indices of boxes after NMS among those of equal label, best first."""
    from torchvision.ops import batched_nms

    return batched_nms(box_N4, score_N, label_N, iou)


def pooled(map_1CHW: Tensor, box_R4: Tensor, side: int) -> Tensor:
    """Return windows_RCSS: the maxima of parts of a map, for boxes in pixels of the map."""
    from torchvision.ops import roi_pool

    return roi_pool(map_1CHW, [box_R4], side)


def box_coder(units: tuple[float, float, float, float]) -> "BoxCoder":
    """Return what turns boxes to moves of others, and back; see torchvision."""
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder(units)
