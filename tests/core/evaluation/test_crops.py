"""Suffixes: V views, B images, H rows, W columns, S side of a view, C channels."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from deepcluster_core.data.views import DRAWS, augmentation_draws, center_view
from deepcluster_core.evaluation.crops import (
    Views,
    fixed_crops,
    fixed_cut,
    training_cut,
    training_views,
    with_shorter_side,
)
from tests.core.device_feed.test_crops import ROUNDING, images
from tests.core.device_feed.test_crops import views as views_of_device

SIZES = [(40, 27), (33, 60), (21, 21), (16, 90), (12, 12)]
"""Heights and widths of images, larger and smaller than what they are resized to."""


def picture(height: int, width: int, *, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def views(*, resize: int = 16, size: int = 12, random: bool = True, flip: float = 0.5) -> Views:
    return Views(resize, size, random_crop=random, flip=flip)


def test_fixed_crops__are_the_corners_the_centre_and_their_mirror_images() -> None:
    image_HWC = picture(16, 22)

    crops_VSSC = fixed_crops(image_HWC, views())

    by_hand = (
        image_HWC[:12, :12],
        image_HWC[:12, 10:],
        image_HWC[4:, :12],
        image_HWC[4:, 10:],
        image_HWC[2:14, 5:17],
    )
    assert crops_VSSC.shape == (10, 12, 12, 3)
    for number, crop_SSC in enumerate(by_hand):
        assert np.array_equal(crops_VSSC[number], crop_SSC)
        assert np.array_equal(crops_VSSC[number + 5], np.fliplr(crop_SSC))


@pytest.mark.parametrize(("height", "width"), [(40, 27), (33, 60), (21, 21)])
def test_fixed_crops__are_torchvisions_ten(height: int, width: int) -> None:
    image_HWC = picture(height, width)
    image_CHW = torch.from_numpy(image_HWC).permute(2, 0, 1)
    ten = v2.Compose([v2.Resize(32, antialias=True), v2.TenCrop(28)])(image_CHW)

    crops_VSSC = fixed_crops(image_HWC, views(resize=32, size=28))

    # torchvision mirrors the image and then crops it, so that right and left change places.
    in_our_order = [ten[number] for number in (0, 1, 2, 3, 4, 6, 5, 8, 7, 9)]
    expected_VSSC = torch.stack(in_our_order).permute(0, 2, 3, 1).numpy()
    difference = np.abs(crops_VSSC.astype(int) - expected_VSSC.astype(int))
    assert difference.max() <= 1  # another order of summation before rounding


def test_fixed_crops__leave_mirrored_digits_out() -> None:
    image_HWC = picture(16, 16, channels=1)
    five_VSSC = fixed_crops(image_HWC, views(flip=0))
    assert five_VSSC.shape == (5, 12, 12, 1)
    assert np.array_equal(five_VSSC, fixed_crops(image_HWC, views())[:5])


def test_with_shorter_side__keeps_the_proportions() -> None:
    assert with_shorter_side(picture(50, 20), 16).shape == (40, 16, 3)
    assert with_shorter_side(picture(10, 33), 16).shape == (16, 52, 3)


def test_training_views__are_crops_of_the_central_square() -> None:
    image_HWC = picture(16, 30)
    square_HWC = image_HWC[:, 7:23]
    draws_BR = np.zeros((3, DRAWS))
    draws_BR[:, 20] = (0.0, 0.5, 0.999)  # left
    draws_BR[:, 21] = (0.999, 0.5, 0.0)  # top
    draws_BR[:, 22] = (0.9, 0.9, 0.1)  # mirrored below the probability

    views_BSSC = training_views([image_HWC] * 3, draws_BR, views())

    assert np.array_equal(views_BSSC[0], square_HWC[4:, :12])
    assert np.array_equal(views_BSSC[1], square_HWC[2:14, 2:14])
    assert np.array_equal(views_BSSC[2], square_HWC[:12, 4:][:, ::-1])


def test_training_views__reach_every_place_equally_often_and_flip_as_asked() -> None:
    row_HWC = np.arange(16, dtype=np.uint8)[None, :, None].repeat(16, axis=0)
    column_HWC = row_HWC.transpose(1, 0, 2)
    num = 4_000
    draws_BR = augmentation_draws(7, 0, num)

    across_BSSC = training_views([row_HWC] * num, draws_BR, views(flip=0.25))
    down_BSSC = training_views([column_HWC] * num, draws_BR, views(flip=0))

    flipped_B = across_BSSC[:, 0, 0, 0] > across_BSSC[:, 0, -1, 0]
    assert flipped_B.mean() == pytest.approx(0.25, abs=0.03)  # 4 standard errors
    for places_B in (across_BSSC.min(axis=(1, 2, 3)), down_BSSC.min(axis=(1, 2, 3))):
        share = np.bincount(places_B, minlength=5) / num
        np.testing.assert_allclose(share, 0.2, atol=0.026)  # 4 standard errors


def test_training_views__without_random_crops_are_the_central_view() -> None:
    image_HWC, draws_BR = picture(31, 24), augmentation_draws(7, 0, 1)
    fixed = views(random=False, flip=0)
    assert fixed.are_fixed
    view_1SSC = training_views([image_HWC], draws_BR, fixed)
    assert np.array_equal(view_1SSC[0], center_view(image_HWC, resize=16, size=12))


def test_are_fixed__only_without_random_crops_and_flips() -> None:
    assert not views(flip=0).are_fixed
    assert not views(random=False).are_fixed


# Views that a device makes


@pytest.mark.parametrize("is_random", [False, True])
def test_training_cut__describes_the_views_of_the_cpu(is_random: bool) -> None:
    drawn = images(SIZES, 3)
    draws_BR = augmentation_draws(3, 0, len(drawn))
    given = views(resize=24, size=17, random=is_random)
    height_B, width_B = np.array(SIZES).T

    found_BCSS = views_of_device(drawn, training_cut(height_B, width_B, draws_BR, given))

    expected_BSSC = training_views(drawn, draws_BR, given)
    expected_BCSS = torch.from_numpy(expected_BSSC).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found_BCSS, expected_BCSS, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_fixed_cut__describes_the_views_of_the_cpu(flip: float) -> None:
    drawn = images(SIZES, 3)
    given = views(resize=24, size=17, flip=flip)
    height_B, width_B = np.array(SIZES).T

    # The views of an image follow each other, so each of them has its image beside it here.
    repeated = [image_HWC for image_HWC in drawn for _ in range(given.num_crops)]
    found_VCSS = views_of_device(repeated, fixed_cut(height_B, width_B, given))

    expected_VSSC = np.concatenate([fixed_crops(image_HWC, given) for image_HWC in drawn])
    expected_VCSS = torch.from_numpy(expected_VSSC).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found_VCSS, expected_VCSS, rtol=0, atol=ROUNDING)
