"""The Triton kernel that crops, resizes and flips. Importing this module needs triton.

Suffixes: V views, F fields of a view, C channels, S side of a view, R rows and Q columns of the
block of pixels that one program computes, A either of them.
"""

# Triton compiles the kernel from its source: its arguments are pointers and numbers of the GPU,
# which have no Python types.
# ruff: noqa: ANN001, ANN202, PLR0913, PLR0915, PLR0917
# pyright: basic, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false

import triton
import triton.language as tl
from torch import Tensor

from deepcluster_core.device_feed.crops import FIELDS
from deepcluster_core.triton_support import COMPILER_OPTIONS, on_device

ROWS, COLUMNS = 8, 32
"""Size of a block. A row of 32 bytes in a box is one sector of the memory."""


def crop_resized(bytes_X: Tensor, fields_VF: Tensor, out_VCSS: Tensor) -> None:
    """Do what `crops.crop_resized` does, on a CUDA device."""
    num_views, channels, size, _ = out_VCSS.shape
    blocks = triton.cdiv(size, ROWS) * triton.cdiv(size, COLUMNS)
    # One dimension, because the others are limited to 65,535 programs. Programs of one view follow
    # each other, so that its pixels are read into the cache once.
    grid = (num_views * blocks * channels,)
    with on_device(bytes_X.device):
        crop_resize_kernel[grid](
            bytes_X,
            fields_VF,
            out_VCSS,
            *out_VCSS.stride(),
            size=size,
            channels=channels,
            fields=FIELDS,
            rows=ROWS,
            columns=COLUMNS,
            **COMPILER_OPTIONS,
        )


@triton.jit
def crop_resize_kernel(
    bytes_X,
    fields_VF,
    out,
    stride_view,
    stride_channel,
    stride_row,
    stride_column,
    size: tl.constexpr,
    channels: tl.constexpr,
    fields: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """Compute one channel of a block of (rows, columns) pixels of one view.

    `fields` has the order of `crops.OFFSET`, …, `crops.WINDOW_TOP`. Positions, windows and weights
    are those of torch's `_upsample_bilinear2d_aa`.
    """
    blocks_across: tl.constexpr = (size + columns - 1) // columns
    blocks: tl.constexpr = blocks_across * ((size + rows - 1) // rows)
    program = tl.program_id(0)
    channel = program % channels
    block = (program // channels) % blocks
    view = program // (channels * blocks)
    y_R = (block // blocks_across) * rows + tl.arange(0, rows)
    x_Q = (block % blocks_across) * columns + tl.arange(0, columns)

    view_fields = fields_VF + view.to(tl.int64) * fields
    offset = tl.load(view_fields)
    width = tl.load(view_fields + 1)
    left = tl.load(view_fields + 2)
    top = tl.load(view_fields + 3)
    box_width = (tl.load(view_fields + 4) - left).to(tl.int32)
    box_height = (tl.load(view_fields + 5) - top).to(tl.int32)
    is_flipped = tl.load(view_fields + 6)
    resized_width = tl.load(view_fields + 7).to(tl.int32)
    resized_height = tl.load(view_fields + 8).to(tl.int32)

    # Beyond the view, the last row and column are computed again, and not stored.
    seen_y_R = tl.minimum(y_R, size - 1)
    seen_x_Q = tl.minimum(x_Q, size - 1)
    seen_x_Q = tl.where(is_flipped != 0, size - 1 - seen_x_Q, seen_x_Q)
    seen_x_Q += tl.load(view_fields + 9).to(tl.int32)
    seen_y_R += tl.load(view_fields + 10).to(tl.int32)
    centre_y_R, first_y_R, end_y_R, reach_y, taps_y = _seen(seen_y_R, box_height, resized_height)
    centre_x_Q, first_x_Q, end_x_Q, reach_x, taps_x = _seen(seen_x_Q, box_width, resized_width)

    sum_x_Q = tl.zeros((columns,), tl.float32)
    for tap_x in range(taps_x):
        sum_x_Q += _weights(first_x_Q + tap_x, centre_x_Q, end_x_Q, reach_x)

    first_byte = offset + (top * width + left) * channels + channel
    row_bytes = width * channels
    sum_y_R = tl.zeros((rows,), tl.float32)
    total_RQ = tl.zeros((rows, columns), tl.float32)
    for tap_y in range(taps_y):
        row_R = first_y_R + tap_y
        weight_R = _weights(row_R, centre_y_R, end_y_R, reach_y)
        sum_y_R += weight_R
        row_pointers_R = bytes_X + first_byte + row_R.to(tl.int64) * row_bytes
        line_RQ = tl.zeros((rows, columns), tl.float32)
        for tap_x in range(taps_x):
            column_Q = first_x_Q + tap_x
            weight_Q = _weights(column_Q, centre_x_Q, end_x_Q, reach_x)
            is_inside_RQ = (row_R < end_y_R)[:, None] & (column_Q < end_x_Q)[None, :]
            pointers_RQ = row_pointers_R[:, None] + (column_Q * channels)[None, :]
            pixel_RQ = tl.load(pointers_RQ, mask=is_inside_RQ, other=0).to(tl.float32)
            line_RQ += weight_Q[None, :] * pixel_RQ
        total_RQ += weight_R[:, None] * line_RQ

    mean_RQ = total_RQ / (sum_y_R[:, None] * sum_x_Q[None, :] * 255.0)
    is_in_view_RQ = (y_R < size)[:, None] & (x_Q < size)[None, :]
    first_value = view.to(tl.int64) * stride_view + channel * stride_channel
    places_RQ = first_value + y_R[:, None] * stride_row + x_Q[None, :] * stride_column
    tl.store(out + places_RQ, mean_RQ, mask=is_in_view_RQ)


@triton.jit
def _seen(value_A, length, resized):
    """Return which pixels along one side of a box values of the resized side are made of.

    Returns the centre of each value in the box, the first and the end of the pixels with a weight,
    the distance from the centre at which the weight is zero, and the largest number of pixels.
    """
    scale = length.to(tl.float32) / resized.to(tl.float32)
    reach = tl.maximum(scale, 1.0)
    centre_A = scale * (value_A.to(tl.float32) + 0.5)
    first_A = tl.maximum((centre_A - reach + 0.5).to(tl.int32), 0)
    end_A = tl.minimum((centre_A + reach + 0.5).to(tl.int32), length)
    # A window of 2 reach begins at a rounded place, so that it holds at most one pixel more.
    taps = 2 * ((length + resized - 1) // resized) + 1
    return centre_A, first_A, end_A, reach, taps


@triton.jit
def _weights(pixel_A, centre_A, end_A, reach):
    """Return the weight of one pixel for each value, zero behind its last pixel."""
    distance_A = tl.abs(pixel_A.to(tl.float32) - centre_A + 0.5)
    weight_A = tl.maximum(1.0 - distance_A / reach, 0.0)
    return tl.where(pixel_A < end_A, weight_A, 0.0)
