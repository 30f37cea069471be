"""The Triton kernel that crops, resizes and flips. Importing this module needs triton.

Suffixes: V views, F fields of a view, C channels, S side of a view, R rows and Q columns of the
block of pixels that one program computes.
"""

# Triton compiles the kernel from its source: its arguments are pointers and numbers of the GPU,
# which have no Python types, and a kernel cannot be divided without a cost in readability.
# ruff: noqa: ANN001, PLR0913, PLR0915, PLR0917
# pyright: basic, reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepcluster_core.device_feed.crops import FIELDS

ROWS, COLUMNS = 8, 32
"""Size of a block. A row of 32 bytes in a box is one sector of the memory."""
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
"""Options of the compiler. Fused products and sums are more exact; Triton's default changes."""


def crop_resized(bytes_X: Tensor, fields_VF: Tensor, out_VCSS: Tensor) -> None:
    """Do what `crops.crop_resized` does, on a CUDA device."""
    num_views, channels, size, _ = out_VCSS.shape
    blocks = triton.cdiv(size, ROWS) * triton.cdiv(size, COLUMNS)
    # One dimension, because the others are limited to 65,535 programs. Programs of one view follow
    # each other, so that its pixels are read into the cache once.
    grid = (num_views * blocks * channels,)
    with _on(bytes_X.device):
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
            **OPTIONS,
        )


def _on(device: torch.device) -> torch.cuda.device:
    """Make a device the current one, on which Triton starts its kernels; a CPU changes nothing."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


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

    `fields` has the order of `crops.OFFSET`, …, `crops.FLIP`. Positions, windows and weights are
    those of torch's `_upsample_bilinear2d_aa`.
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

    # For each row and column: the centre in the box, and the window of pixels with a weight.
    scale_y = box_height.to(tl.float32) / size
    scale_x = box_width.to(tl.float32) / size
    reach_y = tl.maximum(scale_y, 1.0)
    reach_x = tl.maximum(scale_x, 1.0)
    # Beyond the view, the last row and column are computed again, and not stored.
    seen_y_R = tl.minimum(y_R, size - 1)
    seen_x_Q = tl.minimum(x_Q, size - 1)
    seen_x_Q = tl.where(is_flipped != 0, size - 1 - seen_x_Q, seen_x_Q)
    centre_y_R = scale_y * (seen_y_R.to(tl.float32) + 0.5)
    centre_x_Q = scale_x * (seen_x_Q.to(tl.float32) + 0.5)
    first_y_R = tl.maximum((centre_y_R - reach_y + 0.5).to(tl.int32), 0)
    first_x_Q = tl.maximum((centre_x_Q - reach_x + 0.5).to(tl.int32), 0)
    end_y_R = tl.minimum((centre_y_R + reach_y + 0.5).to(tl.int32), box_height)
    end_x_Q = tl.minimum((centre_x_Q + reach_x + 0.5).to(tl.int32), box_width)
    # A window of 2 reach begins at a rounded place, so that it holds at most one pixel more.
    taps_y = 2 * ((box_height + size - 1) // size) + 1
    taps_x = 2 * ((box_width + size - 1) // size) + 1

    sum_x_Q = tl.zeros((columns,), tl.float32)
    for tap_x in range(taps_x):
        column_Q = first_x_Q + tap_x
        distance_Q = tl.abs(column_Q.to(tl.float32) - centre_x_Q + 0.5)
        weight_Q = tl.maximum(1.0 - distance_Q / reach_x, 0.0)
        sum_x_Q += tl.where(column_Q < end_x_Q, weight_Q, 0.0)

    first_byte = offset + (top * width + left) * channels + channel
    row_bytes = width * channels
    sum_y_R = tl.zeros((rows,), tl.float32)
    total_RQ = tl.zeros((rows, columns), tl.float32)
    for tap_y in range(taps_y):
        row_R = first_y_R + tap_y
        distance_R = tl.abs(row_R.to(tl.float32) - centre_y_R + 0.5)
        weight_R = tl.maximum(1.0 - distance_R / reach_y, 0.0)
        weight_R = tl.where(row_R < end_y_R, weight_R, 0.0)
        sum_y_R += weight_R
        row_pointers_R = bytes_X + first_byte + row_R.to(tl.int64) * row_bytes
        line_RQ = tl.zeros((rows, columns), tl.float32)
        for tap_x in range(taps_x):
            column_Q = first_x_Q + tap_x
            distance_Q = tl.abs(column_Q.to(tl.float32) - centre_x_Q + 0.5)
            weight_Q = tl.maximum(1.0 - distance_Q / reach_x, 0.0)
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
