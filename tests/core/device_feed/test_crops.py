"""Crops on a device against torch's own resizing and against the views of the CPU.

Suffixes: B images, H and W of an image, C channels, V views, S side, X bytes of all images.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from deepcluster_core.data.views import (
    FLIP_DRAW,
    RandomCrop,
    augmentation_draws,
    center_boxes,
    center_view,
    random_boxes,
    random_views,
)
from deepcluster_core.device_feed import crops
from deepcluster_core.device_feed.crops import CropTable, Cut, Windows, crop_resized

PAPER = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
FLOAT_ERROR = 2e-6
"""Of a scale of 0 to 1. Sums of a few float32 products in another order: measured 4e-7."""
ROUNDING = 1 / 255 + FLOAT_ERROR
"""The CPU rounds its views to uint8, twice, and its weights to 16 bits: one value of 255."""

Pixels = NDArray[np.uint8]


def images(sizes: Sequence[tuple[int, int]], channels: int, seed: int = 0) -> list[Pixels]:
    """Draw noise, in which every error of a position shows."""
    generator = np.random.default_rng(seed)
    return [generator.integers(256, size=(*size, channels), dtype=np.uint8) for size in sizes]


def joined(drawn: Sequence[Pixels]) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Return the bytes of all images, one after another, where each begins, and the widths."""
    offset_B = np.cumsum([0, *(image.size for image in drawn)])[:-1]
    bytes_X = np.concatenate([image.ravel() for image in drawn])
    return torch.from_numpy(bytes_X), offset_B, np.array([image.shape[1] for image in drawn])


def views(drawn: Sequence[Pixels], cut: Cut) -> Tensor:
    """Return the views (V, C, S, S) of one box of each image."""
    bytes_X, offset_V, width_V = joined(drawn)
    table = CropTable.of(offset_V, width_V, cut)
    out_VCSS = torch.full((len(drawn), drawn[0].shape[2], cut.size, cut.size), np.nan)
    crop_resized(bytes_X, table, torch.from_numpy(table.fields_VF), out_VCSS)
    return out_VCSS


def torchs(image_HWC: Pixels, box: Sequence[int], size: int, *, is_flipped: bool) -> Tensor:
    """Return the view (C, S, S) as torch resizes a float image."""
    left, top, right, bottom = box
    part_1CHW = torch.from_numpy(image_HWC[top:bottom, left:right]).permute(2, 0, 1)[None] / 255
    view_CSS = interpolate(part_1CHW, (size, size), mode="bilinear", antialias=True)[0]
    return view_CSS.flip(2) if is_flipped else view_CSS


# Image (H, W), box (left, top, right, bottom), size of the view.
BOXES = {
    "larger": ((9, 12), (2, 1, 8, 6), 16),
    "smaller": ((41, 57), (3, 2, 50, 40), 16),
    "much smaller": ((90, 120), (0, 0, 120, 90), 7),
    "wider and lower": ((33, 80), (1, 5, 79, 14), 21),
    "as it is": ((20, 20), (2, 3, 18, 19), 16),
    "a row": ((9, 31), (0, 8, 31, 9), 16),
    "a pixel": ((9, 31), (30, 8, 31, 9), 5),
    "to a pixel": ((9, 31), (0, 0, 31, 9), 1),
}


def boxes_together(channels: int, size: int) -> tuple[Tensor, CropTable, Tensor]:
    """Return packed images, a table of all boxes with every second flipped, and torch's views."""
    shapes, boxes, _ = zip(*BOXES.values(), strict=True)
    drawn = images(shapes, channels)
    bytes_X, offset_V, width_V = joined(drawn)
    flipped_V = np.arange(len(drawn)) % 2 == 1
    table = CropTable.of(offset_V, width_V, Cut(np.array(boxes), flipped_V, size))
    views = [
        torchs(image_HWC, box, size, is_flipped=bool(is_flipped))
        for image_HWC, box, is_flipped in zip(drawn, boxes, flipped_V, strict=True)
    ]
    return bytes_X, table, torch.stack(views)


CASES = [
    pytest.param(*case, channels, is_flipped, id=f"{name}, {channels}, {is_flipped}")
    for name, case in BOXES.items()
    for channels in (1, 3)
    for is_flipped in (False, True)
]


@pytest.mark.parametrize(("shape", "box", "size", "channels", "is_flipped"), CASES)
def test_crop_resized__is_torchs_antialiased_resizing(
    shape: tuple[int, int],
    box: tuple[int, int, int, int],
    size: int,
    channels: int,
    is_flipped: bool,
) -> None:
    drawn = images([shape], channels)

    (found_CSS,) = views(drawn, Cut(np.array([box]), np.array([is_flipped]), size))

    expected_CSS = torchs(drawn[0], box, size, is_flipped=is_flipped)
    torch.testing.assert_close(found_CSS, expected_CSS, rtol=0, atol=FLOAT_ERROR)


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_resized__has_the_random_views_of_the_cpu(channels: int) -> None:
    sizes = [(20, 33), (64, 48), (31, 90), (17, 17), (128, 80), (1, 40)] * 3
    drawn = images(sizes, channels)
    draws_BR = augmentation_draws(5, 100, len(drawn))
    height_B, width_B = np.array(sizes).T

    box_B4 = random_boxes(height_B, width_B, draws_BR, PAPER)
    found_BCSS = views(drawn, Cut(box_B4, draws_BR[:, FLIP_DRAW] < PAPER.flip, 24))

    expected_BSSC = random_views(drawn, draws_BR, PAPER, size=24)
    expected_BCSS = torch.from_numpy(expected_BSSC).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found_BCSS, expected_BCSS, rtol=0, atol=ROUNDING)


def test_crop_resized__has_the_central_views_of_the_cpu() -> None:
    sizes = [(20, 33), (65, 48), (31, 90), (17, 17), (27, 80)]
    drawn = images(sizes, 3)
    height_B, width_B = np.array(sizes).T

    box_B4 = center_boxes(height_B, width_B, resize=28, size=24)
    found_BCSS = views(drawn, Cut(box_B4, np.zeros(len(drawn), np.bool_), 24))

    for found_CSS, image_HWC in zip(found_BCSS, drawn, strict=True):
        view_SSC = center_view(image_HWC, resize=28, size=24)
        expected_CSS = torch.from_numpy(view_SSC).permute(2, 0, 1) / 255
        torch.testing.assert_close(found_CSS, expected_CSS, rtol=0, atol=ROUNDING)


# Size (height, width) to which the box is resized, left and top of the view in it; the side is 11.
WINDOWS = [((19, 30), (19, 8)), ((11, 40), (3, 0)), ((40, 11), (0, 17)), ((25, 24), (6, 7))]


def windows_of_boxes() -> tuple[list[Pixels], Cut]:
    """Return images, and views that show a part of a resized box, every second one mirrored."""
    drawn = images([(20, 33), (41, 57), (9, 31), (64, 48)], 3)
    box_V4 = np.array([(0, 0, 33, 20), (3, 2, 50, 40), (1, 0, 31, 9), (0, 8, 48, 56)])
    resized_V2 = np.array([(width, height) for (height, width), _ in WINDOWS])
    corner_V2 = np.array([corner for _, corner in WINDOWS])
    flipped_V = np.array([False, True, False, True])
    return drawn, Cut(box_V4, flipped_V, 11, Windows(resized_V2, corner_V2))


def torchs_windows(drawn: Sequence[Pixels], cut: Cut) -> Tensor:
    """Return the views of `windows_of_boxes` as torch resizes float images."""
    found: list[Tensor] = []
    for number, (image_HWC, (size, (left, top))) in enumerate(zip(drawn, WINDOWS, strict=True)):
        x, y, right, bottom = cut.box_V4[number]
        part_1CHW = torch.from_numpy(image_HWC[y:bottom, x:right]).permute(2, 0, 1)[None] / 255
        resized_CHW = interpolate(part_1CHW, size, mode="bilinear", antialias=True)[0]
        view_CSS = resized_CHW[:, top : top + cut.size, left : left + cut.size]
        found.append(view_CSS.flip(2) if cut.flipped_V[number] else view_CSS)
    return torch.stack(found)


def test_crop_resized__shows_a_window_of_the_resized_box() -> None:
    drawn, cut = windows_of_boxes()

    found_VCSS = views(drawn, cut)

    expected_VCSS = torchs_windows(drawn, cut)
    torch.testing.assert_close(found_VCSS, expected_VCSS, rtol=0, atol=FLOAT_ERROR)


def test_crop_resized__fills_channels_last_memory_in_small_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crops, "VALUES_AT_ONCE", 3 * 40 * 40)
    sizes = [(20, 33), (40, 20), (31, 11)]
    drawn = images(sizes, 3)
    bytes_X, offset_V, width_V = joined(drawn)
    box_V4 = np.array([(0, 0, width, height) for height, width in sizes])
    table = CropTable.of(offset_V, width_V, Cut(box_V4, np.zeros(3, np.bool_), 10))
    out_VCSS = torch.empty(3, 3, 10, 10).contiguous(memory_format=torch.channels_last)

    crop_resized(bytes_X, table, torch.from_numpy(table.fields_VF), out_VCSS)

    expected_VCSS = torch.stack(
        [torchs(image, box, 10, is_flipped=False) for image, box in zip(drawn, box_V4, strict=True)]
    )
    torch.testing.assert_close(out_VCSS, expected_VCSS, rtol=0, atol=FLOAT_ERROR)
    assert out_VCSS.is_contiguous(memory_format=torch.channels_last)
