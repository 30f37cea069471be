"""The weighted sum of channels, against numpy in float64 and against the network that reads it."""

import numpy as np
import pytest
import torch

from deepcluster_core.data.grey import WHOLE, GreyWeights, grey_weights, to_grey
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import IMAGENET_MEAN, IMAGENET_STD, NetworkConfig
from deepcluster_core.models.sobel import Sobel
from tests.support.pictures import gradient

STDS = [IMAGENET_STD, (0.5, 0.5, 0.5), (0.01, 3.0, 0.2)]
ROUNDING = 0.5 + 0.01
"""Of 255: half a step of the packed byte, and what the weights as integers add to the sum."""


@pytest.mark.parametrize("std", STDS)
def test_grey_weights__are_those_of_the_network(std: tuple[float, float, float]) -> None:
    weights = grey_weights(std)

    assert sum(weights) == WHOLE
    exact_3 = 1 / np.array(std)
    # Half a unit from rounding each, and all of what is left over for the largest.
    np.testing.assert_allclose(weights, WHOLE * exact_3 / exact_3.sum(), atol=1.5)
    assert NetworkConfig(std=std).grey_weights == weights


def test_grey_weights__depend_on_the_ratios_of_the_deviations_alone() -> None:
    assert grey_weights((0.2, 0.4, 0.8)) == grey_weights((0.1, 0.2, 0.4))


def test_grey_weights__of_networks_that_read_colours_or_other_channels() -> None:
    assert NetworkConfig(sobel=False).grey_weights is None
    assert NetworkConfig(std=(0.1, 0.2)).grey_weights is None


@pytest.mark.parametrize("weights", [grey_weights(std) for std in STDS])
def test_to_grey__is_the_rounded_sum(weights: GreyWeights) -> None:
    pixels_HW3 = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)

    grey_HW1 = to_grey(pixels_HW3, weights)

    sum_HW = pixels_HW3.astype(np.float64) @ np.array(weights) / WHOLE
    np.testing.assert_array_equal(grey_HW1[..., 0], np.floor(sum_HW + 0.5))
    assert (grey_HW1.dtype, grey_HW1.shape) == (np.uint8, (40, 60, 1))


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_to_grey__keeps_what_is_grey_already(std: tuple[float, float, float], value: int) -> None:
    flat_HW3 = np.full((2, 2, 3), value, np.uint8)

    assert (to_grey(flat_HW3, grey_weights(std)) == value).all(), "black and white, too"


@pytest.mark.parametrize("std", STDS)
def test_sobel__reads_one_weighted_channel_like_three(std: tuple[float, float, float]) -> None:
    filter_ = Sobel(IMAGENET_MEAN, std)
    pixels_HW3 = gradient()
    pixels_HW3[10:20, 10:20] = (250, 3, 90)
    grey_HW1 = to_grey(pixels_HW3, grey_weights(std))

    colour_12HW, grey_12HW = (
        filter_(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None])
        for pixels_HWC in (pixels_HW3, grey_HW1)
    )

    # The eight weights of a filter, of which two are two, add up to 8.
    bound = 8 * ROUNDING / 255 * np.mean(1 / np.array(std))
    assert (colour_12HW - grey_12HW).abs().max() <= bound
    # On the pixels themselves, not only within the bound of rounding, which the maps exceed by far.
    assert colour_12HW.abs().max() > 20 * bound


def test_network__reads_one_channel_as_colours_that_are_equal() -> None:
    network = build_network(NetworkConfig(name="smallnet", image_size=32), channels=3, seed=0)
    network.eval()
    grey_N1HW = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)

    # float32: a sum of three products against one product
    torch.testing.assert_close(
        network.feature(grey_N1HW),
        network.feature(grey_N1HW.expand(-1, 3, -1, -1)),
        atol=1e-4,
        rtol=1e-4,
    )
