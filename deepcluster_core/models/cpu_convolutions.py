"""Convolutions on a CPU, computed in the way that is fastest for their shapes."""

from typing import cast

import torch
from torch import Tensor, nn

from deepcluster_core.models import small_maps, winograd
from deepcluster_core.models.small_maps import Pair


def use_fast_convolutions(network: nn.Module) -> None:
    """Let the convolutions of a network choose how they compute, by the shape of their maps.

    Only their class changes: parameters, hooks and references to them stay as they are.
    """
    for layer in network.modules():
        # Not the subclasses, which do more than convolve.
        if type(layer) is nn.Conv2d and _is_plain(layer):
            layer.__class__ = CpuConv2d


def _is_plain(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size != (1, 1)
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class CpuConv2d(nn.Conv2d):
    """A convolution, by matrix products for small maps, by Winograd's algorithm, or by torch."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolved maps (N, O, H', W') of maps (N, I, H, W)."""
        if input.device.type != "cpu" or input.ndim != 4:
            return super().forward(input)
        map_sides = (input.shape[-2], input.shape[-1])
        kernel = cast("Pair", self.kernel_size)
        stride, padding = cast("Pair", self.stride), cast("Pair", self.padding)
        weight_OIKL, bias_O = self.weight, self.bias
        is_autocast = torch.is_autocast_enabled("cpu")

        pixels = small_maps.pixels_of(map_sides, kernel, stride, padding)
        if pixels is not None:
            if is_autocast:
                dtype = torch.get_autocast_dtype("cpu")
                input, weight_OIKL = input.to(dtype), weight_OIKL.to(dtype)
            return small_maps.convolved(input, weight_OIKL, bias_O, pixels)

        plan = winograd.plan_of(map_sides, tuple(weight_OIKL.shape), stride, padding)
        # Sums of transformed values would lose too much in a format of 16 bits.
        if plan is None or is_autocast or input.dtype not in (torch.float32, torch.float64):
            return super().forward(input)
        return winograd.convolved(input, weight_OIKL, bias_O, plan)
