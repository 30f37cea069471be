"""Suffixes: N images, C channels, H rows, W columns."""

import numpy as np
import pytest
import torch

from deepcluster_core.models.sobel import Sobel

HORIZONTAL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=np.float64)
VERTICAL = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]], dtype=np.float64)


def plain(channels: int) -> Sobel:
    """Return the filter of images that are normalised already."""
    return Sobel((0.0,) * channels, (1.0,) * channels)


def test_sobel__no_images_give_no_maps() -> None:
    assert plain(1)(torch.zeros(0, 1, 6, 7, dtype=torch.uint8)).shape == (0, 2, 6, 7)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_sobel__equals_the_convolution_by_hand(channels: int) -> None:
    images_NCHW = torch.randn(2, channels, 6, 7, generator=torch.Generator().manual_seed(0))

    found = plain(channels)(images_NCHW).numpy()

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
    assert not plain(3).state_dict()
    assert not list(plain(3).parameters())


def test_sobel__keeps_its_precision_under_autocast() -> None:
    images_NCHW = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        maps_N2HW = plain(3)(images_NCHW)
    assert torch.equal(maps_N2HW, plain(3)(images_NCHW))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_sobel__normalises_each_channel_first(dtype: torch.dtype) -> None:
    bytes_NCHW = torch.randint(256, (2, 3, 6, 7), generator=torch.Generator().manual_seed(0))
    shares_NCHW = bytes_NCHW.float() / 255
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    images_NCHW = bytes_NCHW.to(dtype) if dtype == torch.uint8 else shares_NCHW

    found_N2HW = Sobel(mean, std)(images_NCHW)

    mean_C11, std_C11 = (torch.tensor(v)[:, None, None] for v in (mean, std))
    expected_N2HW = plain(3)((shares_NCHW - mean_C11) / std_C11)
    torch.testing.assert_close(found_N2HW, expected_N2HW, atol=1e-5, rtol=0)


def test_sobel__of_a_batch_in_pieces_is_that_of_each_image() -> None:
    side = 400  # more than PIXELS_AT_ONCE in two images
    images_NCHW = torch.randint(256, (4, 3, side, side), dtype=torch.uint8)

    maps_N2HW = plain(3)(images_NCHW)

    alone = [plain(3)(image_1CHW) for image_1CHW in images_NCHW.split(1)]
    assert torch.equal(maps_N2HW, torch.cat(alone))


def test_sobel__lets_gradients_through_to_the_images() -> None:
    images_NCHW = torch.rand(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Sobel((0.1, 0.2, 0.3), (0.2, 0.3, 0.4)), images_NCHW)
