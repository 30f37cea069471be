"""The fixed input filter of the paper.

Suffixes: N images, C channels, H rows, W columns; P = H + 2 and Q = W + 2 with the padding.
"""

import torch
from torch import Tensor, nn


class Sobel(nn.Module):
    """Turn images of any number of channels into two maps: horizontal and vertical contrast.

    The mean of the channels, then the two 3x3 filters, as convolution layers apply them,

        1  0 -1          1  2  1
        2  0 -2   and    0  0  0
        1  0 -1         -1 -2 -1

    Source: Caron et al. 2018 (arXiv:1807.05520), section 3.4, to remove colour and raise local
    contrast; the filters as in the released code.

    Each filter is written out as a smoothing [1, 2, 1] along one axis and a difference [1, 0, -1]
    along the other, not as a convolution with frozen weights: there is nothing that a checkpoint
    would have to carry, an optimiser could change, or autocast and TF32 could round, and a
    difference of neighbouring pixels would lose most of its digits in bfloat16.
    """

    out_channels = 2

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return maps (N, 2, H, W) of float images; beyond their border lies one pixel of zeros."""
        grey_N1HW = images_NCHW.mean(dim=1, keepdim=True)
        padded_N1PQ = nn.functional.pad(grey_N1HW, (1, 1, 1, 1))
        smooth_N1HQ = padded_N1PQ[:, :, :-2] + 2 * padded_N1PQ[:, :, 1:-1] + padded_N1PQ[:, :, 2:]
        smooth_N1PW = padded_N1PQ[..., :-2] + 2 * padded_N1PQ[..., 1:-1] + padded_N1PQ[..., 2:]
        horizontal_N1HW = smooth_N1HQ[..., :-2] - smooth_N1HQ[..., 2:]
        vertical_N1HW = smooth_N1PW[:, :, :-2] - smooth_N1PW[:, :, 2:]
        return torch.cat((horizontal_N1HW, vertical_N1HW), dim=1)
