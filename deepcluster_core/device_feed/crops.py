"""Crop, resize and flip images on a device, from their packed bytes.

The result is what `torch.nn.functional.interpolate(..., mode="bilinear", antialias=True)` returns
for the part of the image in the box, as float. The views that the CPU makes, see `data.views`, are
rounded to uint8 instead, so both differ by up to 1 of 255.

Suffixes: V views, F fields of a view, C channels, S side of a view, L values along one side of a
box, H and W sides of the tallest and of the widest box.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.precision import exact_float32
from deepcluster_core.triton_support import has_triton

FIELDS = 11
"""Number of fields of a view, see `CropTable`."""
OFFSET, WIDTH, LEFT, TOP, RIGHT, BOTTOM, FLIP = range(7)
RESIZED_WIDTH, RESIZED_HEIGHT, WINDOW_LEFT, WINDOW_TOP = range(7, FIELDS)
VALUES_AT_ONCE = 1 << 22
"""Pixel values that `_resized_by_products` gathers at once: 16 MiB as float32."""


@dataclass(frozen=True)
class Windows:
    """Which part of its resized box each view shows."""

    resized_V2: NDArray[np.int64]
    """Width and height to which the box is resized, pixels."""
    corner_V2: NDArray[np.int64]
    """Left and top of the view in the resized box, pixels."""


@dataclass(frozen=True)
class Cut:
    """Views of one kind: which part of its image each one shows."""

    box_V4: NDArray[np.int64]
    """Left, top, right, bottom in pixels, right and bottom exclusive."""
    flipped_V: NDArray[np.bool_]
    size: int
    """S."""
    windows: Windows | None = None
    """None: the box is resized to the view."""


@dataclass(frozen=True)
class CropTable:
    """Which part of which image each view shows, in main memory."""

    fields_VF: NDArray[np.int64]
    """offset: position of the image's first byte; width: pixels in a row of the image; left, top,
    right and bottom: the box in pixels, right and bottom exclusive; flip: 1 for a mirrored view;
    then the width and height to which the box is resized, and the place of the view in it."""

    @classmethod
    def of(cls, offset_V: NDArray[np.int64], width_V: NDArray[np.int64], cut: Cut) -> Self:
        """Return the table of the views of images that begin at these bytes."""
        fields_VF = np.empty((len(offset_V), FIELDS), np.int64)
        fields_VF[:, OFFSET] = offset_V
        fields_VF[:, WIDTH] = width_V
        fields_VF[:, LEFT : BOTTOM + 1] = cut.box_V4
        fields_VF[:, FLIP] = cut.flipped_V
        windows = cut.windows
        fields_VF[:, RESIZED_WIDTH:WINDOW_LEFT] = (
            cut.size if windows is None else windows.resized_V2
        )
        fields_VF[:, WINDOW_LEFT:] = 0 if windows is None else windows.corner_V2
        return cls(fields_VF)


def crop_resized(bytes_X: Tensor, table: CropTable, fields_VF: Tensor, out_VCSS: Tensor) -> None:
    """Write the views of a table into `out_VCSS`, as values from 0 to 1.

    Args:
        bytes_X: uint8, the pixels of images, rows of (width, C) each, on the device.
        table: the views.
        fields_VF: int64, `table.fields_VF` on the device.
        out_VCSS: float32 on the device, in any memory format.
    """
    if len(fields_VF) == 0:
        return
    if has_triton(bytes_X.device):
        # Imported here because importing triton takes long and fails where it is not installed.
        from deepcluster_core.device_feed import kernel  # noqa: PLC0415

        kernel.crop_resized(bytes_X, fields_VF, out_VCSS)
    else:
        crop_resized_by_products(bytes_X, table, fields_VF, out_VCSS)


def crop_resized_by_products(
    bytes_X: Tensor, table: CropTable, fields_VF: Tensor, out_VCSS: Tensor
) -> None:
    """Do what `crop_resized` does with matrix products, on any device.

    A resized view is A_y P A_x^T: P are the pixels of its box, and the rows of A_y and A_x hold the
    weights of the pixels for each row and column of the view. P is padded to the largest box, so
    that the last bits of a view depend on the other boxes.
    """
    channels = out_VCSS.shape[1]
    for views, tallest, widest in _groups(table, channels):
        resized_VCSS = _resized_by_products(
            bytes_X, fields_VF[views], (tallest, widest), (channels, out_VCSS.shape[2])
        )
        out_VCSS[views].copy_(resized_VCSS)


def _groups(table: CropTable, channels: int) -> Iterator[tuple[slice, int, int]]:
    """Yield groups of views with the sides of their tallest and of their widest box."""
    fields_VF = table.fields_VF
    height_V = fields_VF[:, BOTTOM] - fields_VF[:, TOP]
    width_V = fields_VF[:, RIGHT] - fields_VF[:, LEFT]
    values_in_largest = int(height_V.max()) * int(width_V.max()) * channels
    at_once = max(1, VALUES_AT_ONCE // values_in_largest)
    for start in range(0, len(fields_VF), at_once):
        views = slice(start, start + at_once)
        yield views, int(height_V[views].max()), int(width_V[views].max())


def _resized_by_products(
    bytes_X: Tensor, fields_VF: Tensor, box: tuple[int, int], shape: tuple[int, int]
) -> Tensor:
    """Return views (V, C, S, S) of boxes that are at most `box` tall and wide."""
    tallest, widest = box
    channels, size = shape
    left_V, top_V = fields_VF[:, LEFT], fields_VF[:, TOP]
    height_V = fields_VF[:, BOTTOM] - top_V
    width_V = fields_VF[:, RIGHT] - left_V
    device = bytes_X.device
    # Gather the pixels of each box. Beyond a smaller box its last row and column are repeated,
    # with a weight of zero.
    row_VH = torch.arange(tallest, device=device).minimum(height_V[:, None] - 1) + top_V[:, None]
    column_VW = torch.arange(widest, device=device).minimum(width_V[:, None] - 1) + left_V[:, None]
    pixel_VHW = row_VH[:, :, None] * fields_VF[:, WIDTH, None, None] + column_VW[:, None, :]
    channel_C = torch.arange(channels, device=device)
    first_V111 = fields_VF[:, OFFSET, None, None, None]
    index_VHWC = first_V111 + pixel_VHW[..., None] * channels + channel_C
    pixels_VHWC = bytes_X[index_VHWC].float() / 255
    # Resize the rows, then the columns.
    num_views = len(fields_VF)
    down_VSH = _weights(
        height_V, tallest, fields_VF[:, RESIZED_HEIGHT], fields_VF[:, WINDOW_TOP], size
    )
    across_VSW = _weights(
        width_V, widest, fields_VF[:, RESIZED_WIDTH], fields_VF[:, WINDOW_LEFT], size
    )
    is_flipped_V11 = fields_VF[:, FLIP, None, None] == 1
    across_VSW = torch.where(is_flipped_V11, across_VSW.flip(1), across_VSW)
    with exact_float32():
        rows_VSX = down_VSH @ pixels_VHWC.reshape(num_views, tallest, widest * channels)
        rows_VSWC = rows_VSX.view(num_views, size, widest, channels)
        columns_VCSW = rows_VSWC.permute(0, 3, 1, 2)
        return columns_VCSW @ across_VSW.transpose(1, 2)[:, None]


def _weights(
    length_V: Tensor, longest: int, resized_V: Tensor, first_V: Tensor, size: int
) -> Tensor:
    """Return the weights (V, S, L) of pixels for each value of a view along one axis.

    The view begins at `first_V` of a box of this length that is resized to `resized_V` values.

    As in torch, a value is the mean of the pixels around its place, weighted by a triangle that is
    two pixels of the larger of both scales wide.
    """
    scale_V11 = (length_V.float() / resized_V)[:, None, None]
    value_S1 = torch.arange(size, device=length_V.device)[:, None]
    place_VS1 = first_V[:, None, None] + value_S1 + 0.5
    pixel_L = torch.arange(longest, device=length_V.device) + 0.5
    distance_VSL = (pixel_L - place_VS1 * scale_V11).abs()
    weight_VSL = (1 - distance_VSL / scale_V11.clamp(min=1)).clamp(min=0)
    weight_VSL = weight_VSL * (pixel_L < length_V[:, None, None])
    return weight_VSL / weight_VSL.sum(dim=2, keepdim=True)
