"""Suffixes: B views, S side of the view, C channels, N colours."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import functional

from deepcluster_core.data.augment_config import ColourConfig, check_channels
from deepcluster_core.data.colour import LUMA_3, change_colours, colour_change, hue_matrices
from deepcluster_core.data.views import augmentation_draws

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

ALL = ColourConfig(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey=0.2)


def dull(num: int = 1, side: int = 12, channels: int = 3) -> Pixels:
    """Return random views from 90 to 150, which moderate changes leave between 0 and 255."""
    shape = (num, side, side, channels)
    return np.random.default_rng(0).integers(90, 151, size=shape, dtype=np.uint8)


def draws(
    *, brightness: float = 0.5, contrast: float = 0.5, saturation: float = 0.5, hue: float = 0.5
) -> Floats:
    """Return the random numbers of one view; 0.5 changes nothing."""
    return np.array([[brightness, contrast, saturation, hue, 0.0, 0.9, 0.0, 0.0]])


def changed(view_SSC: Pixels, draws_1R: Floats, colour: ColourConfig) -> Pixels:
    views_1SSC = view_SSC[None].copy()
    change_colours(views_1SSC, draws_1R, colour)
    return views_1SSC[0]


def by_torchvision(view_SSC: Pixels, *steps: Callable[[torch.Tensor], torch.Tensor]) -> Floats:
    """Return the result of torchvision's functions on floats, 0 to 255."""
    image_CSS = torch.from_numpy(view_SSC).permute(2, 0, 1).double() / 255
    for step in steps:
        image_CSS = step(image_CSS)
    return 255 * image_CSS.permute(1, 2, 0).numpy()


def random_colours(num: int = 2000) -> Floats:
    return np.random.default_rng(1).random((num, 3))


def hsv_hue(colours_N3: Floats) -> Floats:
    """Return the hue in turns as HSV has it."""
    red_N, green_N, blue_N = colours_N3.T
    largest_N = colours_N3.max(axis=1)
    range_N = np.ptp(colours_N3, axis=1)
    sector_N = np.select(
        [largest_N == red_N, largest_N == green_N],
        [(green_N - blue_N) / range_N, 2 + (blue_N - red_N) / range_N],
        4 + (red_N - green_N) / range_N,
    )
    return (sector_N / 6) % 1


# Against torchvision

# Half a rounding, and 1e-3 of the float32 arithmetic of both.
ROUNDING = 0.501


@pytest.mark.parity
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_change_colours__brightness_equals_torchvision(draw: float) -> None:
    (view_SSC,) = dull()
    factor = 1 + 0.6 * (2 * draw - 1)

    result_SSC = changed(view_SSC, draws(brightness=draw), ColourConfig(brightness=0.6))

    expected_SSC = by_torchvision(
        view_SSC, lambda image: functional.adjust_brightness(image, factor)
    )
    assert np.abs(result_SSC - expected_SSC).max() < ROUNDING


@pytest.mark.parity
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_change_colours__contrast_equals_torchvision(draw: float, channels: int) -> None:
    (view_SSC,) = dull(channels=channels)
    factor = 1 + 0.6 * (2 * draw - 1)

    result_SSC = changed(view_SSC, draws(contrast=draw), ColourConfig(contrast=0.6))

    expected_SSC = by_torchvision(view_SSC, lambda image: functional.adjust_contrast(image, factor))
    assert np.abs(result_SSC - expected_SSC).max() < ROUNDING


@pytest.mark.parity
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_change_colours__saturation_equals_torchvision(draw: float) -> None:
    (view_SSC,) = dull()
    factor = 1 + 0.6 * (2 * draw - 1)

    result_SSC = changed(view_SSC, draws(saturation=draw), ColourConfig(saturation=0.6))

    expected_SSC = by_torchvision(
        view_SSC, lambda image: functional.adjust_saturation(image, factor)
    )
    # torchvision's weights of the luma are 0.2989, 0.587 and 0.114, which sum to 0.9999.
    assert np.abs(result_SSC - expected_SSC).max() < ROUNDING + 1e-4 * 255


@pytest.mark.parity
def test_change_colours__grey_equals_torchvision() -> None:
    (view_SSC,) = dull()

    result_SSC = changed(view_SSC, draws(), ColourConfig(grey=1.0))

    expected_SSC = by_torchvision(
        view_SSC, lambda image: functional.rgb_to_grayscale(image, num_output_channels=3)
    )
    assert np.abs(result_SSC - expected_SSC).max() < ROUNDING + 1e-4 * 255
    assert (np.ptp(result_SSC, axis=2) == 0).all()


@pytest.mark.parity
def test_change_colours__any_order_of_torchvision_gives_the_same() -> None:
    (view_SSC,) = dull()
    colour = ColourConfig(brightness=0.2, contrast=0.4, saturation=0.3)
    steps = (
        lambda image: functional.adjust_brightness(image, 1.1),
        lambda image: functional.adjust_contrast(image, 1.3),
        lambda image: functional.adjust_saturation(image, 0.8),
    )

    result_SSC = changed(view_SSC, draws(brightness=0.75, contrast=0.875, saturation=1 / 6), colour)

    for order in itertools.permutations(steps):
        expected_SSC = by_torchvision(view_SSC, *order)
        assert np.abs(result_SSC - expected_SSC).max() < ROUNDING + 2e-4 * 255


def test_change_colours__clips_once() -> None:
    # 200 doubles to 400; the contrast then halves the distance to the mean of 200, not of 127.5.
    view_SSC = np.array([[[0], [200]], [[0], [200]]], np.uint8)
    colour = ColourConfig(brightness=1.0, contrast=0.5)

    result_SSC = changed(view_SSC, draws(brightness=1.0, contrast=0.0), colour)

    # 2 (0.5 x + 0.5 · 100) = x + 100.
    assert result_SSC[..., 0].tolist() == [[100, 255], [100, 255]]


# The hue


def test_hue_matrices__keep_greys_and_the_luma() -> None:
    matrices_B33 = hue_matrices(np.linspace(-0.5, 0.5, 21))

    np.testing.assert_allclose(matrices_B33.sum(axis=2), 1, atol=1e-12)
    np.testing.assert_allclose(LUMA_3 @ matrices_B33, np.tile(LUMA_3, (21, 1)), atol=1e-12)
    assert np.array_equal(matrices_B33[10], np.eye(3)), "no turn changes nothing"


def test_hue_matrices__a_third_exchanges_the_channels() -> None:
    (matrix_33,) = hue_matrices(np.array([1 / 3]))

    green_3 = matrix_33 @ [1, 0, 0]

    # Green with the luma of red: as much is added to each channel as has been lost.
    np.testing.assert_allclose(green_3 - green_3[0], [0, 1, 0], atol=1e-12)
    assert green_3 @ LUMA_3 == pytest.approx(LUMA_3[0])


def test_hue_matrices__turns_add_up() -> None:
    first, second, both = hue_matrices(np.array([0.1, 0.25, 0.35]))

    np.testing.assert_allclose(first @ second, both, atol=1e-12)


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.05, 0.05, 0.1, 0.2, 0.5])
def test_hue_matrices__turn_the_hue_of_hsv_within_3_degrees(turn: float) -> None:
    colours_N3 = random_colours()
    (matrix_33,) = hue_matrices(np.array([turn]))

    turned_N3 = colours_N3 @ matrix_33.T

    moved_N = hsv_hue(turned_N3) - hsv_hue(colours_N3) - turn
    difference_N = 360 * ((moved_N + 0.5) % 1 - 0.5)
    # The angle on a hexagon and that on a circle differ by up to 1.12 degrees, before and after.
    assert np.abs(difference_N).max() < 3
    # torchvision keeps the value of HSV, the largest channel; ours keeps the luma.
    images_3N1 = torch.from_numpy(colours_N3.T)[:, :, None]
    hsv_N3 = functional.adjust_hue(images_3N1, turn)[:, :, 0].numpy().T
    assert np.abs((turned_N3 - colours_N3) @ LUMA_3).max() < 1e-9
    assert np.abs((hsv_N3 - colours_N3) @ LUMA_3).max() > 0.04
    moved_N = hsv_hue(hsv_N3) - hsv_hue(turned_N3)
    assert np.abs(360 * ((moved_N + 0.5) % 1 - 0.5)).max() < 3


def test_colour_change__hue_commutes_with_the_other_changes() -> None:
    (turned_33,) = hue_matrices(np.array([0.15]))
    saturated_33 = 0.4 * np.eye(3) + 0.6 * LUMA_3

    np.testing.assert_allclose(turned_33 @ saturated_33, saturated_33 @ turned_33, atol=1e-12)
    # Contrast moves towards a grey, which the hue neither moves nor makes darker.
    np.testing.assert_allclose(turned_33 @ np.ones(3), np.ones(3), atol=1e-12)


# Chance


def test_colour_change__has_the_distribution_of_torchvision() -> None:
    num = 4000
    draws_BR = augmentation_draws(1, 0, num, columns=8)
    colour = ColourConfig(brightness=0.8, contrast=0.4, saturation=0.6, hue=0.2, grey=0.2)

    change = colour_change(np.full(num, 100.0), draws_BR, colour, 3)

    changes_B = change.scale_B != 1
    assert change.mix_B33 is not None
    is_grey_B = (np.abs(change.mix_B33 - LUMA_3) < 1e-12).all(axis=(1, 2))
    # 5 standard errors of a share of 4,000 are at most 0.04.
    assert changes_B.mean() == pytest.approx(0.8, abs=0.04)
    assert is_grey_B.mean() == pytest.approx(0.2, abs=0.04)
    assert (is_grey_B & changes_B).mean() == pytest.approx(0.16, abs=0.04), "independent"
    brightness_B = 1 + 0.8 * (2 * draws_BR[changes_B, 0] - 1)
    contrast_B = change.scale_B[changes_B] / brightness_B
    assert contrast_B.min() == pytest.approx(0.6, abs=0.01)
    assert contrast_B.max() == pytest.approx(1.4, abs=0.01)
    # Uniform from 0.6 to 1.4, deviation 0.23; 5 standard errors of 3,200.
    assert contrast_B.mean() == pytest.approx(1, abs=0.021)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_change_colours__brightness_and_contrast_of_any_number_of_channels(channels: int) -> None:
    views_BSSC = dull(20, channels=channels)
    given_BSSC = views_BSSC.copy()
    draws_BR = augmentation_draws(3, 0, 20, columns=8)

    change_colours(views_BSSC, draws_BR, ColourConfig(brightness=0.3, contrast=0.3))

    for view_SSC, old_SSC, draws_R in zip(views_BSSC, given_BSSC, draws_BR, strict=True):
        brightness, contrast = 1 + 0.3 * (2 * draws_R[:2] - 1)
        if draws_R[4] >= 0.8:
            assert np.array_equal(view_SSC, old_SSC)
            continue
        grey = (old_SSC.mean(axis=(0, 1)) @ LUMA_3) if channels == 3 else old_SSC.mean()
        expected_SSC = brightness * (contrast * old_SSC + (1 - contrast) * grey)
        assert np.abs(view_SSC - expected_SSC).max() < ROUNDING


def test_change_colours__each_view_by_its_own_draws() -> None:
    together_BSSC = dull(12)
    draws_BR = augmentation_draws(3, 0, 12, columns=8)
    alone = [
        changed(view_SSC, draws_BR[number : number + 1], ALL)
        for number, view_SSC in enumerate(together_BSSC)
    ]

    change_colours(together_BSSC, draws_BR, ALL)

    assert np.array_equal(together_BSSC, np.stack(alone))
    assert not np.array_equal(together_BSSC, dull(12))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_check_channels__names_the_keys_that_need_three(channels: int) -> None:
    problem = check_channels(ColourConfig(brightness=0.4, hue=0.1, grey=0.2), channels)

    assert problem is not None
    assert "train.colour.hue" in problem
    assert "leave out hue, grey" in problem
    assert f"dataset.channels is {channels}" in problem
    assert check_channels(ColourConfig(brightness=0.4, contrast=0.2), channels) is None
    assert check_channels(ALL, 3) is None
