"""Resize images. Suffixes: H height, W width, C channels."""

import torch
from torch.nn.functional import interpolate

from deepcluster_core.data.deep_values import Pixels


def resize(pixels_HWC: Pixels, size: tuple[int, int]) -> Pixels:
    """Return an image resized to a height and width, bilinear with antialiasing.

    torch takes 0.09 ms for a crop of 224 px, compared with 0.37 ms for Pillow. Their rounding
    differs: values deviate by at most 1 of 255, and by 0.01 on average.
    """
    if pixels_HWC.shape[:2] == size:
        return pixels_HWC
    # A contiguous copy in this order counts as channels-last, for which torch has a fast path.
    pixels_1HWC = torch.from_numpy(pixels_HWC.copy())[None]
    pixels_1CHW = pixels_1HWC.permute(0, 3, 1, 2)
    resized_1CHW = interpolate(pixels_1CHW, size, mode="bilinear", antialias=True)
    resized_1HWC = resized_1CHW.permute(0, 2, 3, 1)
    return resized_1HWC[0].numpy()
