"""What of a map lies in a box, pooled to the square that fc6 reads.

Suffixes: R regions, C channels, H rows, W columns of a map, S side of the square.
"""

import torch
from torch import Tensor
from torchvision.ops import roi_pool

from deepcluster_core.models.dense import Place


def pooled_windows(map_1CHW: Tensor, box_R4: Tensor, place: Place, *, side: int) -> Tensor:
    """Return windows_RCSS, the greatest value of each of the side x side parts of each region.

    Of Fast R-CNN's RoI pooling this differs in one thing: regions are moved by what `place` says,
    so that they cover those pixels of the map that look at the box. For a network that is padded
    fully both are the same. A region has one pixel of the map at least.

    Args:
        map_1CHW: of one picture.
        box_R4: left, top, right, bottom in pixels of the picture; right and bottom are outside.
        place: of the map.
        side: S.
    """
    last = torch.tensor(map_1CHW.shape[:1:-1]).repeat(2).to(box_R4) - 1  # W - 1, H - 1, twice
    # The first and the last pixel of the picture in the box, and those of the map that see them.
    ends_R4 = box_R4 - box_R4.new_tensor((0, 0, 1, 1)) - place.first
    ends_R4 = (ends_R4 / place.stride).clamp(min=box_R4.new_zeros(4), max=last)
    # Not in bfloat16, for which it is not made on a CPU; a greatest value is the same in both.
    return roi_pool(map_1CHW.float(), [ends_R4], side)
