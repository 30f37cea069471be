"""The Triton kernel of Sobel's filter, interpreted on the CPU, and where it is used.

Suffixes: N images, C channels, H rows, W columns.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcluster_core.models import sobel
from deepcluster_core.models.sobel import Sobel
from tests.core.device_feed.test_kernel import kernel_process
from tests.support.fake_cuda import fake_gpus

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

MEAN, STD = (0.4,), (0.25,)
ERROR = 1e-5
"""Tolerance for maps between -16 and 16, which are float32 sums of eight values of at most 2.4."""


def interpreted(folder: Path, plane_N1HW: Tensor, *, white: int) -> Tensor:
    """Return the maps (N, 2, H, W) of the kernel, of images that are normalised with MEAN, STD."""
    given, out = folder / "given.npz", folder / "out.npy"
    scale, shift = 1 / (STD[0] * white), -MEAN[0] / STD[0]
    np.savez(given, plane=plane_N1HW.numpy(), scale=scale, shift=shift)
    kernel_process("contrast", str(given), str(out), cache=folder / "cache", TRITON_INTERPRET="1")
    return torch.from_numpy(np.load(out)).permute(0, 3, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_contrast__is_that_of_torch(dtype: torch.dtype, tmp_path: Path) -> None:
    # Sides that are no multiples of those of a block.
    bytes_N1HW = torch.randint(256, (3, 1, 11, 37), generator=torch.Generator().manual_seed(0))
    white = 255 if dtype == torch.uint8 else 1
    plane_N1HW = bytes_N1HW.to(dtype) if dtype == torch.uint8 else bytes_N1HW.float() / 255

    found_N2HW = interpreted(tmp_path, plane_N1HW, white=white)

    expected_N2HW = Sobel(MEAN, STD)(plane_N1HW)
    torch.testing.assert_close(found_N2HW, expected_N2HW, rtol=0, atol=ERROR)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_sobel__on_a_gpu_has_its_maps_in_the_order_of_convolutions(
    channels: int, dtype: torch.dtype
) -> None:
    module = Sobel((0.4,) * 3, (0.25,) * 3)

    with fake_gpus() as seen:
        images_NCHW = torch.zeros(4, channels, 11, 37, dtype=dtype, device="cuda:1")
        maps_N2HW = module(images_NCHW)

    assert maps_N2HW.shape == (4, 2, 11, 37)
    assert maps_N2HW.dtype == torch.float32
    assert maps_N2HW.is_contiguous(memory_format=torch.channels_last)
    assert seen == {"cuda:1"}
    assert seen.num_waits == 0


def test_sobel__on_a_gpu_keeps_the_gradient_of_learnt_images() -> None:
    with fake_gpus():
        images_NCHW = torch.zeros(4, 3, 11, 37, device="cuda:1", requires_grad=True)
        assert Sobel((0.4,) * 3, (0.25,) * 3)(images_NCHW).requires_grad


def test_sobel__without_triton_computes_on_the_gpu_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sobel, "has_triton", lambda _device: False)

    with fake_gpus() as seen:
        images_NCHW = torch.zeros(4, 3, 11, 37, dtype=torch.uint8, device="cuda:1")
        assert Sobel((0.4,) * 3, (0.25,) * 3)(images_NCHW).shape == (4, 2, 11, 37)

    assert seen == {"cuda:1"}
