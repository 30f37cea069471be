"""Suffixes: N images, C channels, H rows, W columns."""

import numpy as np
import pytest
import torch

from deepcluster_core.models.sobel import Sobel

HORIZONTAL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=np.float64)
VERTICAL = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]], dtype=np.float64)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_sobel__equals_the_convolution_by_hand(channels: int) -> None:
    images_NCHW = torch.randn(2, channels, 6, 7, generator=torch.Generator().manual_seed(0))

    found = Sobel()(images_NCHW).numpy()

    grey_NHW = images_NCHW.numpy().astype(np.float64).mean(axis=1)
    padded = np.pad(grey_NHW, ((0, 0), (1, 1), (1, 1)))
    expected = np.zeros((2, 2, 6, 7))
    for row in range(6):
        for column in range(7):
            window = padded[:, row : row + 3, column : column + 3]
            expected[:, 0, row, column] = (window * HORIZONTAL).sum(axis=(1, 2))
            expected[:, 1, row, column] = (window * VERTICAL).sum(axis=(1, 2))
    # float32 against float64: sums of eight numbers of about 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sobel__leaves_nothing_for_a_checkpoint_or_an_optimiser() -> None:
    assert not Sobel().state_dict()
    assert not list(Sobel().parameters())


def test_sobel__keeps_its_precision_under_autocast() -> None:
    images_NCHW = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        maps_N2HW = Sobel()(images_NCHW)
    assert torch.equal(maps_N2HW, Sobel()(images_NCHW))
