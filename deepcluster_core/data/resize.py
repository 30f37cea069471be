"""Resizing of images. Suffixes: H height, W width, C channels."""

import torch
from torch.nn.functional import interpolate

from deepcluster_core.data.deep_values import Pixels


def resize(pixels_HWC: Pixels, size: tuple[int, int]) -> Pixels:
    """Return an image in another height and width, bilinear with antialiasing.

    By torch, which needs 0.09 ms for a crop of 224 px where Pillow needs 0.37 ms, and rounds by
    its filter: values differ by 1 of 255 at most, by 0.01 on average.
    """
    if pixels_HWC.shape[:2] == size:
        return pixels_HWC
    # A contiguous copy in this order counts as channels-last, for which torch has a fast path.
    pixels_1CHW = torch.from_numpy(pixels_HWC.copy())[None].permute(0, 3, 1, 2)
    resized_1CHW = interpolate(pixels_1CHW, size, mode="bilinear", antialias=True)
    return resized_1CHW.permute(0, 2, 3, 1)[0].numpy()
