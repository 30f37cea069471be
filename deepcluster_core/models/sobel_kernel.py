"""The Triton kernel of Sobel's filter. Importing this module needs triton.

One program reads each pixel from the cache up to eight times and writes both maps at once, in the
memory order of a convolution. PyTorch's operations pass over the maps about fifteen times.

It is not part of the kernel that makes the views: there, each pixel of a map would need its eight
neighbours resized again.

Suffixes: N images, H rows, W columns, R rows and Q columns of the block of one program.
"""

# Triton compiles the kernel from its source: its arguments are pointers and numbers of the GPU,
# which have no Python types.
# ruff: noqa: ANN001, ANN202, PLR0913, PLR0917
# pyright: basic, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepcluster_core.triton_support import COMPILER_OPTIONS, on_device

ROWS, COLUMNS = 8, 32
"""Size of a block."""


@torch.library.custom_op("deepcluster::contrast", mutates_args=())
def contrast(plane_N1HW: Tensor, scale: float, shift: float) -> Tensor:
    """Return maps (N, 2, H, W), horizontal and vertical contrast, float32 in channels-last memory.

    An operation of torch, so that tensors without numbers know its shape; it has no gradient.

    Args:
        plane_N1HW: one channel, uint8 or float32.
        scale: factor of its values.
        shift: added to the product. Around the image lies a pixel of zeros, which are not shifted.
    """
    num_images, _, height, width = plane_N1HW.shape
    maps_N2HW = _empty(plane_N1HW)
    grid = (num_images * triton.cdiv(height, ROWS) * triton.cdiv(width, COLUMNS),)
    if grid[0] == 0:
        return maps_N2HW
    stride_image, _, stride_row, stride_column = plane_N1HW.stride()
    with on_device(plane_N1HW.device):
        contrast_kernel[grid](
            plane_N1HW,
            maps_N2HW,
            scale,
            shift,
            stride_image,
            stride_row,
            stride_column,
            height,
            width,
            rows=ROWS,
            columns=COLUMNS,
            **COMPILER_OPTIONS,
        )
    return maps_N2HW


@contrast.register_fake
def _(plane_N1HW: Tensor, scale: float, shift: float) -> Tensor:
    return _empty(plane_N1HW)


def _empty(plane_N1HW: Tensor) -> Tensor:
    num_images, _, height, width = plane_N1HW.shape
    return torch.empty(
        (num_images, 2, height, width),
        device=plane_N1HW.device,
        memory_format=torch.channels_last,
    )


@triton.jit
def contrast_kernel(
    plane,
    maps,
    scale,
    shift,
    stride_image,
    stride_row,
    stride_column,
    height,
    width,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """Compute both maps of a block of (rows, columns) pixels of one image."""
    blocks_across = tl.cdiv(width, columns)
    blocks = blocks_across * tl.cdiv(height, rows)
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    block = program % blocks
    y_R1 = ((block // blocks_across) * rows + tl.arange(0, rows))[:, None]
    x_1Q = ((block % blocks_across) * columns + tl.arange(0, columns))[None, :]

    pixels = plane + image * stride_image
    # Numbers and not tuples, which Triton knows only from 3.3 on.
    above_left = _grey(
        pixels, y_R1 - 1, x_1Q - 1, height, width, stride_row, stride_column, scale, shift
    )
    above = _grey(pixels, y_R1 - 1, x_1Q, height, width, stride_row, stride_column, scale, shift)
    above_right = _grey(
        pixels, y_R1 - 1, x_1Q + 1, height, width, stride_row, stride_column, scale, shift
    )
    on_left = _grey(pixels, y_R1, x_1Q - 1, height, width, stride_row, stride_column, scale, shift)
    on_right = _grey(pixels, y_R1, x_1Q + 1, height, width, stride_row, stride_column, scale, shift)
    below_left = _grey(
        pixels, y_R1 + 1, x_1Q - 1, height, width, stride_row, stride_column, scale, shift
    )
    below = _grey(pixels, y_R1 + 1, x_1Q, height, width, stride_row, stride_column, scale, shift)
    below_right = _grey(
        pixels, y_R1 + 1, x_1Q + 1, height, width, stride_row, stride_column, scale, shift
    )

    left = (above_left + below_left) + 2.0 * on_left
    right = (above_right + below_right) + 2.0 * on_right
    over = (above_left + above_right) + 2.0 * above
    under = (below_left + below_right) + 2.0 * below
    both = tl.join(left - right, over - under)

    # The two values of a pixel follow each other.
    first_value_RQ = ((image * height + y_R1) * width + x_1Q) * 2
    places = first_value_RQ[:, :, None] + tl.arange(0, 2)[None, None, :]
    is_in_image_RQ = (y_R1 < height) & (x_1Q < width)
    tl.store(maps + places, both, mask=is_in_image_RQ[:, :, None])


@triton.jit
def _grey(pixels, y_R1, x_1Q, height, width, stride_row, stride_column, scale, shift):
    """Return the grey values at rows and columns, float32; zero outside of the image."""
    is_inside_RQ = (y_R1 >= 0) & (y_R1 < height) & (x_1Q >= 0) & (x_1Q < width)
    pointers_RQ = pixels + y_R1 * stride_row + x_1Q * stride_column
    value_RQ = tl.load(pointers_RQ, mask=is_inside_RQ, other=0).to(tl.float32)
    return tl.where(is_inside_RQ, value_RQ * scale + shift, 0.0)
