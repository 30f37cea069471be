"""Convolutions of very small maps on a CPU, as matrix products.

At the end of a ResNet-18, images of 32 to 64 pixels are maps of one or two pixels a side. Most of a
3x3 kernel then lies on the padding: on a map of one pixel, eight of its nine weights. oneDNN still
multiplies by all of them, and is slow where there are few pixels for many channels. Here each
pixel of the result is a product with only those weights that meet the map.

Suffixes: N images, H rows, W columns, I input channels, O output channels, K rows and L columns of
the kernel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

LARGEST_SIDE = 2
"""Pixels a side of the largest result that is computed in this way.

Forward and backward pass of 3x3 convolutions with 128 to 512 channels took, on one thread of an AMD
EPYC with AVX2, 32 to 256 images: for 2x2 pixels a half to a third of oneDNN's time, for one pixel
an eighth to a thirtieth. At three pixels a side it is between 0.6 and 1.75 times as fast.
"""


Pair = tuple[int, int]


@dataclass(frozen=True)
class Pixel:
    """A pixel of the result: the part of the map that the kernel covers, and that of the kernel."""

    rows: slice
    columns: slice
    kernel_rows: slice
    kernel_columns: slice


@dataclass(frozen=True)
class Pixels:
    """The pixels of a result, row by row."""

    height: int
    width: int
    all: tuple[Pixel, ...]


@cache
def pixels_of(map_sides: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pixels | None:
    """Return the pixels of the result; None if there are too many to compute them in this way."""
    sides = zip(map_sides, kernel, stride, padding, strict=True)
    rows, columns = (list(_spans(*side)) for side in sides)
    if not 0 < len(rows) <= LARGEST_SIDE or not 0 < len(columns) <= LARGEST_SIDE:
        return None
    pixels = tuple(
        Pixel(row, column, kernel_row, kernel_column)
        for row, kernel_row in rows
        for column, kernel_column in columns
    )
    return Pixels(len(rows), len(columns), pixels)


def _spans(side: int, kernel: int, stride: int, padding: int) -> Iterator[tuple[slice, slice]]:
    """Yield, for each position of the kernel along one side, what it covers, and with what."""
    for start in range(-padding, side + padding - kernel + 1, stride):
        first = max(start, 0)
        last = max(first, min(start + kernel, side))  # can be nothing, on padding alone
        yield slice(first, last), slice(first - start, last - start)


def convolved(maps: Tensor, weight_OIKL: Tensor, bias_O: Tensor | None, pixels: Pixels) -> Tensor:
    """Return the convolved maps (N, O, H', W') of maps (N, I, H, W)."""
    output = cast("Tensor", _Products.apply(maps, weight_OIKL, pixels))
    return output if bias_O is None else output + bias_O.to(output.dtype)[:, None, None]


class _Products(torch.autograd.Function):
    """The convolution without its bias; every product is over all channels of a covered part."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight_OIKL: Tensor, pixels: Pixels) -> Tensor:  # noqa: ANN401  torch's context
        """Return the maps (N, O, H', W'), in channels-last memory."""
        ctx.save_for_backward(maps, weight_OIKL)
        ctx.pixels = pixels
        maps_NHWI, weight_OKLI = maps.permute(0, 2, 3, 1), weight_OIKL.permute(0, 2, 3, 1)
        results = [
            _covered(maps_NHWI, pixel) @ _covering(weight_OKLI, pixel).T for pixel in pixels.all
        ]
        output = torch.stack(results, dim=1).unflatten(1, (pixels.height, pixels.width))
        # Detached, because autograd lets nobody change a view of a function's own tensors in place.
        return output.permute(0, 3, 1, 2).detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of the maps and of the weights."""
        maps, weight_OIKL = ctx.saved_tensors
        maps_NHWI, weight_OKLI = maps.permute(0, 2, 3, 1), weight_OIKL.permute(0, 2, 3, 1)
        of_maps_NHWI = of_weight_OKLI = None
        if ctx.needs_input_grad[0]:
            of_maps_NHWI = torch.zeros_like(maps_NHWI, memory_format=torch.contiguous_format)
        if ctx.needs_input_grad[1]:
            of_weight_OKLI = torch.zeros_like(weight_OKLI, memory_format=torch.contiguous_format)
        gradient_NHWO = gradients[0].permute(0, 2, 3, 1)
        for pixel, gradient_NO in zip(
            ctx.pixels.all, gradient_NHWO.flatten(1, 2).unbind(1), strict=True
        ):
            if of_maps_NHWI is not None:
                part = of_maps_NHWI[:, pixel.rows, pixel.columns]
                part += (gradient_NO @ _covering(weight_OKLI, pixel)).view_as(part)
            if of_weight_OKLI is not None:
                part = of_weight_OKLI[:, pixel.kernel_rows, pixel.kernel_columns]
                part += (gradient_NO.T @ _covered(maps_NHWI, pixel)).view_as(part)
        return _channels_second(of_maps_NHWI), _channels_second(of_weight_OKLI), None


def _covered(maps_NHWI: Tensor, pixel: Pixel) -> Tensor:
    return maps_NHWI[:, pixel.rows, pixel.columns].flatten(1)


def _covering(weight_OKLI: Tensor, pixel: Pixel) -> Tensor:
    return weight_OKLI[:, pixel.kernel_rows, pixel.kernel_columns].flatten(1)


def _channels_second(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.permute(0, 3, 1, 2)
