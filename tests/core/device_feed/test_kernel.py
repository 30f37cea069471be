"""The Triton kernel on a machine without a GPU: interpreted, and compiled for GPUs.

Suffixes: X bytes of all images, V views, F fields of a view, C channels, S side of a view.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from deepcluster_core.data.views import FLIP_DRAW, augmentation_draws, random_boxes, random_views
from deepcluster_core.device_feed.crops import CropTable, Cut
from tests.core.device_feed.test_crops import (
    FLOAT_ERROR,
    PAPER,
    ROUNDING,
    boxes_together,
    images,
    joined,
    torchs_windows,
    windows_of_boxes,
)

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

KERNEL_ERROR = 4 * FLOAT_ERROR
"""Of a scale of 0 to 1. The kernel divides by the sum of the weights at the end."""


def kernel_process(*arguments: str, cache: Path, **environment: str) -> str:
    """Run `tests.support.triton_kernels`; return what it prints."""
    command = [sys.executable, "-W", "error", "-m", "tests.support.triton_kernels", *arguments]
    settings = {"TRITON_CACHE_DIR": str(cache), **environment}
    ended = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def interpreted(
    folder: Path, table: CropTable, bytes_X: torch.Tensor, *, channels: int, size: int, last: bool
) -> torch.Tensor:
    """Return the views (V, C, S, S) of the kernel."""
    given, out = folder / "given.npz", folder / "out.npy"
    np.savez(
        given,
        bytes=bytes_X.numpy(),
        fields=table.fields_VF,
        channels=channels,
        size=size,
        channels_last=last,
    )
    kernel_process("crop", str(given), str(out), cache=folder / "cache", TRITON_INTERPRET="1")
    return torch.from_numpy(np.load(out))


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "last"), [(1, False), (3, True)])
def test_crop_resize_kernel__is_torchs_antialiased_resizing(
    channels: int, last: bool, tmp_path: Path
) -> None:
    # One kernel launch for all boxes. The size of a view is not a multiple of the block size.
    bytes_X, table, expected_VCSS = boxes_together(channels, size=11)

    found_VCSS = interpreted(tmp_path, table, bytes_X, channels=channels, size=11, last=last)

    torch.testing.assert_close(found_VCSS, expected_VCSS, rtol=0, atol=KERNEL_ERROR)


@pytest.mark.slow
def test_crop_resize_kernel__shows_a_window_of_the_resized_box(tmp_path: Path) -> None:
    drawn, cut = windows_of_boxes()
    bytes_X, offset_V, width_V = joined(drawn)
    table = CropTable.of(offset_V, width_V, cut)

    found_VCSS = interpreted(tmp_path, table, bytes_X, channels=3, size=cut.size, last=True)

    expected_VCSS = torchs_windows(drawn, cut)
    torch.testing.assert_close(found_VCSS, expected_VCSS, rtol=0, atol=KERNEL_ERROR)


def test_crop_resize_kernel__has_the_random_views_of_the_cpu(tmp_path: Path) -> None:
    sizes = [(20, 33), (64, 48), (31, 90), (1, 40)]
    drawn = images(sizes, 1)
    draws_BR = augmentation_draws(5, 100, len(drawn))
    height_B, width_B = np.array(sizes).T
    box_B4 = random_boxes(height_B, width_B, draws_BR, PAPER)
    bytes_X, offset_B, _ = joined(drawn)
    table = CropTable.of(offset_B, width_B, Cut(box_B4, draws_BR[:, FLIP_DRAW] < PAPER.flip, 34))

    found_BCSS = interpreted(tmp_path, table, bytes_X, channels=1, size=34, last=False)

    expected_BSSC = random_views(drawn, draws_BR, PAPER, size=34)
    expected_BCSS = torch.from_numpy(expected_BSSC).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found_BCSS, expected_BCSS, rtol=0, atol=ROUNDING)


def test_kernels__compile_for_gpus_without_spilling(tmp_path: Path) -> None:
    made = json.loads(kernel_process("compile", "80", "90", cache=tmp_path))

    assert [(one["capability"], one["kernel"]) for one in made] == [
        (capability, kernel)
        for capability in (80, 90)
        for kernel in (
            "crop, channels=1",
            "crop, channels=3",
            "contrast, plane=*u8",
            "contrast, plane=*fp32",
        )
    ]
    for one in made:
        assert one["stack_bytes"] == 0, "registers are spilled"
        # 65,536 registers for the 2,048 threads of a multiprocessor: up to 64, half of them run.
        assert one["registers"] <= 64
        # Both of Sobel's maps of a block, which are written in another order than computed.
        assert one["shared_bytes"] <= (2048 if "contrast" in one["kernel"] else 0)
