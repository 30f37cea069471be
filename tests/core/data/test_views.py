"""Suffixes: B images, R random numbers, S side of the view, H, W, C."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms

from deepcluster_core.data.views import (
    DRAWS,
    RandomCrop,
    augmentation_draws,
    center_view,
    crop_resized,
    random_boxes,
    random_views,
)
from deepcluster_core.seeding import torch_seeded

Pixels = NDArray[np.uint8]

PAPER = RandomCrop(area=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)
WHOLE = RandomCrop(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.5)


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def waves(height: int, width: int) -> Pixels:
    """Draw a smooth picture: three waves of 20 to 60 pixels."""
    y_H, x_W = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    length_C = np.array([20, 35, 60])
    waves_HWC = np.sin(2 * np.pi * x_W / length_C) + np.cos(2 * np.pi * y_H / length_C)
    return (127.5 + 60 * waves_HWC).astype(np.uint8)


def reference_view(image_HWC: Pixels, *, resize: int, size: int) -> Pixels:
    steps = [
        transforms.Resize(resize, interpolation=transforms.InterpolationMode.BILINEAR),
        transforms.CenterCrop(size),
    ]
    return np.asarray(transforms.Compose(steps)(Image.fromarray(image_HWC)))


# The central crop


@pytest.mark.parity
@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 24), (32, 46, 24), (60, 32, 30), (32, 40, 32)]
)
def test_center_view__equals_torchvision_when_nothing_is_resized(
    height: int, width: int, size: int
) -> None:
    image_HWC = noise(height, width)

    view_SSC = center_view(image_HWC, resize=32, size=size)

    np.testing.assert_array_equal(view_SSC, reference_view(image_HWC, resize=32, size=size))


@pytest.mark.parity
@pytest.mark.parametrize("margin", [1, 3, 5, 7])
def test_center_view__cuts_odd_margins_as_torchvision(margin: int) -> None:
    # Half a pixel has to go somewhere: to the even number, 1.5 to 2.
    image_HWC = noise(32, 32 + margin)

    view_SSC = center_view(image_HWC, resize=32, size=32)

    expected_SSC = reference_view(image_HWC, resize=32, size=32)
    np.testing.assert_array_equal(view_SSC, expected_SSC)


@pytest.mark.parity
@pytest.mark.parametrize(("height", "width"), [(500, 375), (300, 451), (150, 200), (257, 257)])
def test_center_view__is_close_to_torchvision_when_resized(height: int, width: int) -> None:
    image_HWC = waves(height, width)

    view_SSC = center_view(image_HWC, resize=256, size=224)

    expected_SSC = reference_view(image_HWC, resize=256, size=224)
    assert view_SSC.shape == expected_SSC.shape == (224, 224, 3)
    # One step against two: our box falls on whole pixels of the original, torchvision's on whole
    # pixels of the resized picture, so they may lie a pixel apart each way. The waves climb 19, 11
    # and 6 a pixel at their steepest, 12, 7 and 4 on average: up to 8 on average of the channels
    # (0.4 to 6.2 measured) and twice 19 at a point. Another place altogether differs by 60.
    difference = np.abs(view_SSC.astype(int) - expected_SSC.astype(int))
    assert difference.mean() < 8
    assert difference.max() < 2 * 19


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_crop_resized__treats_channels_alike(channels: int) -> None:
    image_HWC = noise(20, 30, channels)

    view_SSC = crop_resized(image_HWC, (2, 1, 29, 18), 9)

    assert view_SSC.shape == (9, 9, channels)
    for channel in range(channels):
        grey_HW = Image.fromarray(np.ascontiguousarray(image_HWC[1:18, 2:29, channel]))
        expected_SS = np.asarray(grey_HW.resize((9, 9), Image.Resampling.BILINEAR))
        # Pillow and torch round the weights of the same filter to different numbers of bits.
        difference_SS = np.abs(view_SSC[..., channel].astype(int) - expected_SS)
        assert difference_SS.max() <= 1
        np.testing.assert_array_equal(
            view_SSC[..., channel],
            crop_resized(image_HWC[..., channel : channel + 1], (2, 1, 29, 18), 9)[..., 0],
        )


# The random crop


@pytest.mark.parity
def test_random_boxes__has_the_distribution_of_torchvision() -> None:
    height, width, num = 60, 80, 4000
    draws_BR = augmentation_draws(1, 0, num)
    ours = np.array(random_boxes(np.full(num, height), np.full(num, width), draws_BR, PAPER))
    image = torch.empty(3, height, width)
    get_params = transforms.RandomResizedCrop.get_params
    with torch_seeded(0):
        theirs = np.array(
            [get_params(image, list(PAPER.area), list(PAPER.ratio)) for _ in range(num)]
        )

    left, top, right, bottom = ours.T
    their_top, their_left, their_height, their_width = theirs.T
    for name, our, their in (
        ("area", (right - left) * (bottom - top), their_height * their_width),
        ("ratio", (right - left) / (bottom - top), their_width / their_height),
        ("left", left, their_left),
        ("top", top, their_top),
    ):
        # Two samples of one distribution are further apart than this once in 10,000 seeds.
        probability = float(ks_2samp(our, their)[1])  # pyright: ignore[reportArgumentType]  scipy
        assert probability > 1e-4, name
    # Areas are uniform over 0.08 to 1 (less what does not fit), with deviation 0.27: 5 standard
    # errors of the difference of two means of 4000 are 0.03.
    our_area, their_area = (right - left) * (bottom - top), their_height * their_width
    difference = (our_area.mean() - their_area.mean()) / (height * width)
    assert abs(difference) < 0.03


@pytest.mark.parity
@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (10, 13), (50, 50)])
def test_random_boxes__without_a_fit_is_torchvisions_central_box(height: int, width: int) -> None:
    too_large = RandomCrop(area=(2.0, 3.0), ratio=PAPER.ratio, flip=0.5)

    draws_1R = augmentation_draws(1, 0, 1)
    (box,) = random_boxes(np.array([height]), np.array([width]), draws_1R, too_large).tolist()

    image = torch.empty(3, height, width)
    top, left, box_height, box_width = transforms.RandomResizedCrop.get_params(
        image, list(too_large.area), list(too_large.ratio)
    )
    assert tuple(box) == (left, top, left + box_width, top + box_height)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000), st.floats(0.01, 1.0))
def test_random_boxes__lies_in_the_image(height: int, width: int, start: int, area: float) -> None:
    crop = RandomCrop(area=(area, 1.0), ratio=PAPER.ratio, flip=0.5)

    draws_1R = augmentation_draws(3, start, 1)
    ((left, top, right, bottom),) = random_boxes(
        np.array([height]), np.array([width]), draws_1R, crop
    )

    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_random_views__share_of_flips() -> None:
    num = 2000
    image_HWC = np.tile(np.arange(0, 80, 10, dtype=np.uint8)[None, :, None], (8, 1, 3))
    draws_BR = augmentation_draws(2, 0, num)

    views_BSSC = random_views([image_HWC] * num, draws_BR, WHOLE, size=8)

    flipped_B = views_BSSC[:, 0, 0, 0] > views_BSSC[:, 0, -1, 0]
    # 5 standard deviations of a binomial share of 2000 are 0.056.
    assert flipped_B.mean() == pytest.approx(0.5, abs=0.056)
    np.testing.assert_array_equal(views_BSSC[~flipped_B][0], image_HWC)
    np.testing.assert_array_equal(views_BSSC[flipped_B][0], image_HWC[:, ::-1])


@pytest.mark.parametrize(("flip", "expected"), [(0.0, 0), (1.0, 100)])
def test_random_views__never_or_always_flips(flip: float, expected: int) -> None:
    image_HWC = noise(8, 8)
    crop = RandomCrop(area=WHOLE.area, ratio=WHOLE.ratio, flip=flip)

    views_BSSC = random_views([image_HWC] * 100, augmentation_draws(2, 0, 100), crop, size=8)

    assert sum(np.array_equal(view, image_HWC[:, ::-1]) for view in views_BSSC) == expected


def test_random_views__each_image_by_its_own_draws() -> None:
    images = [noise(20 + number, 30 - number) for number in range(6)]
    draws_BR = augmentation_draws(4, 100, 6)

    together = random_views(images, draws_BR, PAPER, size=10)

    assert together.shape == (6, 10, 10, 3)
    for number, image in enumerate(images):
        alone = random_views([image], draws_BR[number : number + 1], PAPER, size=10)
        np.testing.assert_array_equal(together[number], alone[0])
    assert len({view.tobytes() for view in together}) == 6


# The numbers behind it


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_augmentation_draws__do_not_depend_on_the_batches(seed: int, sizes: list[int]) -> None:
    starts = [0, *itertools.accumulate(sizes)]

    cut = [augmentation_draws(seed, a, b - a) for a, b in itertools.pairwise(starts)]

    whole_MR = augmentation_draws(seed, 0, starts[-1])
    assert whole_MR.shape == (starts[-1], DRAWS)
    np.testing.assert_array_equal(np.concatenate(cut), whole_MR)


def test_augmentation_draws__begin_anywhere_in_a_long_epoch() -> None:
    far = 10**9

    np.testing.assert_array_equal(
        augmentation_draws(5, far, 10)[7:], augmentation_draws(5, far + 7, 3)
    )


def test_augmentation_draws__differ_by_seed_and_position() -> None:
    draws_BR = augmentation_draws(5, 0, 1000)

    assert len(np.unique(draws_BR)) == draws_BR.size, "no number comes twice"
    assert not np.isin(draws_BR, augmentation_draws(6, 0, 1000)).any()
    # Uniform on 0 to 1: mean 1/2, deviation 0.289; 5 standard errors of 24,000 are 0.009.
    assert draws_BR.mean() == pytest.approx(0.5, abs=0.009)
