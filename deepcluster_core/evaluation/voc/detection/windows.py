"""RoI pooling: the part of a map that lies in a box, pooled to the square that fc6 reads.

Suffixes: R regions, C channels, H rows, W columns of a map, S side of the square.
"""

import torch
from torch import Tensor

from deepcluster_core.evaluation.voc.detection.boxes import pooled
from deepcluster_core.models.dense import Place


def pooled_windows(
    map_1CHW: Tensor,
    box_R4: Tensor,
    place: Place,
    *,
    side: int,
) -> Tensor:
    """Return windows_RCSS, the greatest value of each of the side x side parts of each region.

    It differs from Fast R-CNN's RoI pooling in one respect: regions are shifted by the offset of
    `place`, so that they cover the pixels of the map that look at the box. For a fully padded
    network there is no difference. A region has at least one pixel of the map.

    Args:
        map_1CHW: map of one picture.
        box_R4: left, top, right, bottom in pixels of the picture; right and bottom are exclusive.
        place: position of the map on the picture.
        side: side S of a window.
    """
    height, width = map_1CHW.shape[2:]
    last_column = width - 1
    last_row = height - 1
    last_4 = box_R4.new_tensor((last_column, last_row, last_column, last_row))
    first_4 = torch.zeros_like(last_4)
    # From the first and the last pixel of the box to the pixels of the map that look at them.
    pixel_R4 = box_R4 - box_R4.new_tensor((0, 0, 1, 1))
    place_R4 = (pixel_R4 - place.first) / place.stride
    place_R4 = place_R4.clamp(min=first_4, max=last_4)
    # torchvision's does not support bfloat16 on a CPU. In float32, a maximum has an equal value.
    return pooled(map_1CHW.float(), place_R4, side)
