"""The fixed input filter of the paper, with the normalisation before it.

Suffixes: N images, C channels, H rows, W columns; P = H + 2 and Q = W + 2 with the padding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepcluster_core.triton_support import has_triton

PIXELS_AT_ONCE = 2**18
"""Pixels processed at once on the CPU, so that intermediate results stay in a core's cache.

Measured on 256 images of 224 px on two cores: 57 ms in groups of four images, 83 ms for all at
once, and 238 ms if normalisation, mean and filter are separate passes over the whole batch.
"""


class Sobel(nn.Module):
    """Turn images of any number of channels into two maps: horizontal and vertical contrast.

    It takes the mean of the normalised channels and applies two 3x3 filters as convolutions do:

        1  0 -1          1  2  1
        2  0 -2   and    0  0  0
        1  0 -1         -1 -2 -1

    Source: Caron et al. 2018 (arXiv:1807.05520), section 3.4, to remove colour and raise local
    contrast; the filters as in the released code.

    Each filter is computed as a smoothing [1, 2, 1] along one axis and a difference [1, 0, -1]
    along the other, not as a convolution with frozen weights. There are thus no weights for a
    checkpoint to hold or an optimiser to change, and autocast and TF32 cannot round the result: a
    difference of neighbouring pixels would lose most of its digits in bfloat16.
    """

    out_channels = 2

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Fold the normalisation of each channel and their mean into one weighted sum.

        Args:
            mean: one value per channel, on a scale of 0 to 1.
            std: as `mean`, above 0.
        """
        super().__init__()
        num_channels = len(std)
        self._weights = [1 / (num_channels * deviation) for deviation in std]
        weighted_means = [m * weight for m, weight in zip(mean, self._weights, strict=True)]
        self._shift = -sum(weighted_means)
        self._grey_weight = sum(self._weights)
        """Weight of the one channel of images whose channels are weighted already."""

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return maps (N, 2, H, W) of images, uint8 of 0 to 255 or float of 0 to 1.

        The normalised image is padded by one pixel of zeros. Images of one channel, where the
        network has several, are the sum of the channels with these weights already, divided by the
        sum of the weights (`deepcluster_core.data.grey`): the maps are equal up to its rounding.
        """
        if images_NCHW.device.type != "cpu":
            return self._on_device(images_NCHW)
        pixels_in_image = images_NCHW.shape[2] * images_NCHW.shape[3]
        at_once = max(1, PIXELS_AT_ONCE // pixels_in_image)
        pieces: list[Tensor] = []
        for piece_NCHW in images_NCHW.split(at_once):
            grey_N1HW = self._grey(piece_NCHW)
            pieces.append(_contrast(grey_N1HW))
        if len(pieces) == 1:
            return pieces[0]  # without the copy that `cat` makes
        return torch.cat(pieces)

    def _on_device(self, images_NCHW: Tensor) -> Tensor:
        """Return the maps on a GPU: by one kernel, unless a gradient is wanted or Triton lacks."""
        needs_gradient = torch.is_grad_enabled() and images_NCHW.requires_grad
        if needs_gradient or not has_triton(images_NCHW.device):
            return _contrast(self._grey(images_NCHW))
        # Imported here because importing triton takes long and fails where it is not installed.
        from deepcluster_core.models.sobel_kernel import contrast  # noqa: PLC0415

        if images_NCHW.shape[1] == 1 and images_NCHW.dtype in (torch.uint8, torch.float32):
            white = 255 if images_NCHW.dtype == torch.uint8 else 1
            return contrast(images_NCHW, self._grey_weight / white, self._shift)
        return contrast(self._grey(images_NCHW).float(), 1.0, 0.0)

    def _grey(self, images_NCHW: Tensor) -> Tensor:
        """Return grey_N1HW, the mean of the normalised channels, at least in float32."""
        white = 255 if images_NCHW.dtype == torch.uint8 else 1
        float_type = torch.promote_types(images_NCHW.dtype, torch.float32)
        wide_NCHW = images_NCHW.to(float_type)
        is_weighted = images_NCHW.shape[1] == 1
        first_weight, *other_weights = [self._grey_weight] if is_weighted else self._weights
        grey_N1HW = wide_NCHW[:, :1] * (first_weight / white)
        for channel, weight in enumerate(other_weights, start=1):
            here_N1HW = wide_NCHW[:, channel : channel + 1]
            grey_N1HW = torch.add(grey_N1HW, here_N1HW, alpha=weight / white)
        return grey_N1HW + self._shift


def _contrast(grey_N1HW: Tensor) -> Tensor:
    """Return maps (N, 2, H, W): the horizontal and the vertical contrast of grey images."""
    padded_N1PQ = nn.functional.pad(grey_N1HW, (1, 1, 1, 1))
    # Smooth along one axis: each pixel twice and both of its neighbours.
    above_N1HQ = padded_N1PQ[:, :, :-2]
    centre_N1HQ = padded_N1PQ[:, :, 1:-1]
    below_N1HQ = padded_N1PQ[:, :, 2:]
    smooth_N1HQ = torch.add(above_N1HQ + below_N1HQ, centre_N1HQ, alpha=2)
    left_N1PW = padded_N1PQ[..., :-2]
    centre_N1PW = padded_N1PQ[..., 1:-1]
    right_N1PW = padded_N1PQ[..., 2:]
    smooth_N1PW = torch.add(left_N1PW + right_N1PW, centre_N1PW, alpha=2)
    # Take the difference of the neighbours along the other axis.
    on_left_N1HW = smooth_N1HQ[..., :-2]
    on_right_N1HW = smooth_N1HQ[..., 2:]
    over_N1HW = smooth_N1PW[:, :, :-2]
    under_N1HW = smooth_N1PW[:, :, 2:]
    horizontal_N1HW = on_left_N1HW - on_right_N1HW
    vertical_N1HW = over_N1HW - under_N1HW
    return torch.cat((horizontal_N1HW, vertical_N1HW), dim=1)
