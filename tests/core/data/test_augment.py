"""Suffixes: B images, S side of the view, C channels, X views of all images of a kind."""

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core.data.augment import Augmentation, ViewKind, Views, augment
from deepcluster_core.data.augment_config import BlurConfig, ColourConfig, NoiseConfig
from deepcluster_core.data.blur import WHOLE, blurred, gaussian_weights
from deepcluster_core.data.noise import add_noise
from deepcluster_core.data.orientation import orient, turn_quarters
from deepcluster_core.data.views import RandomCrop, augmentation_draws, random_views
from deepcluster_core.seeding import derive

Pixels = NDArray[np.uint8]

PAPER = RandomCrop(area=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)
WHOLE_IMAGE = RandomCrop(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.5)
SMALL = RandomCrop(area=(0.05, 0.3), ratio=(1.0, 1.0), flip=0.5)
KINDS = (ViewKind(2, 16, PAPER), ViewKind(3, 8, SMALL))
PARTS = {
    "flip_vertical": Augmentation(flip_vertical=0.5),
    "turn": Augmentation(turn=0.5),
    "colour": Augmentation(colour=ColourConfig(brightness=0.5, contrast=0.5, probability=0.5)),
    "blur": Augmentation(blur=BlurConfig(probability=0.5, radius=(0.5, 2.0))),
    "noise": Augmentation(noise=NoiseConfig(probability=0.5)),
}
ALL = Augmentation(
    flip_vertical=0.5,
    turn=0.5,
    colour=PARTS["colour"].colour,
    blur=PARTS["blur"].blur,
    noise=PARTS["noise"].noise,
)


def noise(*shape: int, seed: int = 0) -> Pixels:
    generator = np.random.Generator(np.random.Philox(key=seed))
    return generator.integers(256, size=shape, dtype=np.uint8)


def pictures(num: int, channels: int = 3) -> list[Pixels]:
    return [noise(20 + number, 30 - number, channels, seed=number) for number in range(num)]


# DeepCluster's one view


def test_views__of_one_kind_are_deepclusters() -> None:
    images = pictures(6)

    (views_XSSC,) = Views((ViewKind(1, 10, PAPER),), Augmentation(), 4).of_images(images, 100, 3)

    expected_BSSC = random_views(images, augmentation_draws(4, 100, 6), PAPER, size=10)
    np.testing.assert_array_equal(views_XSSC, expected_BSSC)


def test_views__of_one_kind_keep_the_bytes_of_the_first_release() -> None:
    # Without resizing, so that the digest does not depend on torch's filter. It is that of the code
    # of 50a7c10 with NumPy 2.4.6.
    images = [noise(8, 8, 3, seed=number) for number in range(20)]

    (views_XSSC,) = Views((ViewKind(1, 8, WHOLE_IMAGE),), Augmentation(), 2).of_images(images, 3, 3)

    assert hashlib.sha256(views_XSSC.tobytes()).hexdigest() == (
        "fb1d5a6e8a4e3fa1d4d5747a4eded7b7760bc5cc4faf6f89ed582907bf37ec91"
    )


# What a view depends on


def test_views__have_one_array_for_each_kind() -> None:
    drawn = Views(KINDS, ALL, 4).of_images(pictures(5), 0, 3)

    assert [array.shape for array in drawn] == [(10, 16, 16, 3), (15, 8, 8, 3)]
    assert len({view.tobytes() for array in drawn for view in array}) == 25, "all differ"


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_views__depend_on_the_position_only(channels: int) -> None:
    images = pictures(7, channels)
    views = Views(KINDS, ALL, 4)

    together = views.of_images(images, 50, channels)

    for start, end in ((0, 3), (3, 4), (4, 7)):
        part = views.of_images(images[start:end], 50 + start, channels)
        for kind, array, part_array in zip(KINDS, together, part, strict=True):
            rows = array.reshape(kind.count, 7, *array.shape[1:])[:, start:end]
            np.testing.assert_array_equal(part_array.reshape(rows.shape), rows)


def test_views__do_not_depend_on_the_kinds_after_them() -> None:
    images = pictures(4)

    first, second = Views(KINDS, ALL, 4).of_images(images, 9, 3)

    (alone,) = Views(KINDS[:1], ALL, 4).of_images(images, 9, 3)
    np.testing.assert_array_equal(alone, first)
    # Views are numbered over all kinds: the first of the second kind is view 2.
    by_hand = random_views(images, augmentation_draws(derive(4, 2), 9, 4), SMALL, size=8)
    augment(by_hand, ALL, seed=derive(4, 2), start=9)
    np.testing.assert_array_equal(second[:4], by_hand)


def test_views__differ_by_seed_and_position() -> None:
    images = [noise(30, 30, 3)] * 3
    drawn = [
        Views(KINDS, ALL, seed).of_images(images, start, 3)[0].tobytes()
        for seed, start in ((4, 0), (5, 0), (4, 1), (4, 0))
    ]

    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]


def test_views__of_no_images() -> None:
    drawn = Views(KINDS, ALL, 4).of_images([], 0, 2)

    assert [array.shape for array in drawn] == [(0, 16, 16, 2), (0, 8, 8, 2)]


# Each augmentation


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", PARTS)
def test_augment__changes_its_share_of_the_views(name: str, channels: int) -> None:
    num = 400
    given_BSSC = noise(num, 8, 8, channels) // 2 + 60

    changed_BSSC = given_BSSC.copy()
    augment(changed_BSSC, PARTS[name], seed=3, start=0)

    is_changed_B = (changed_BSSC != given_BSSC).any(axis=(1, 2, 3))
    # 5 standard deviations of a binomial share of 400 are 0.125.
    assert is_changed_B.mean() == pytest.approx(0.5, abs=0.125)


@pytest.mark.parametrize("name", PARTS)
def test_augment__draws_do_not_depend_on_the_other_augmentations(name: str) -> None:
    # Whether a view is changed by the last step shows what was drawn for it.
    given_BSSC = noise(60, 8, 8, 3) // 2 + 60
    without = replace(ALL, **{name: getattr(Augmentation(), name)})
    only_BSSC, without_BSSC, all_BSSC = (given_BSSC.copy() for _ in range(3))

    augment(only_BSSC, PARTS[name], seed=3, start=0)
    augment(without_BSSC, without, seed=3, start=0)
    augment(all_BSSC, ALL, seed=3, start=0)

    is_changed_B = (only_BSSC != given_BSSC).any(axis=(1, 2, 3))
    assert np.array_equal((all_BSSC != without_BSSC).any(axis=(1, 2, 3)), is_changed_B)
    assert 0 < is_changed_B.sum() < 60


def test_augment__nothing_by_default() -> None:
    views_BSSC = noise(20, 8, 8, 3)

    augment(views_BSSC, Augmentation(), seed=3, start=0)

    assert np.array_equal(views_BSSC, noise(20, 8, 8, 3))


@pytest.mark.parametrize(("side", "channels"), [(1, 3), (7, 1), (8, 2), (120, 3), (103, 5)])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turn_quarters__is_exact(side: int, channels: int, quarters: int) -> None:
    # 120 · 120 · 3 values are turned in two bands, 103 · 103 · 5 in two that differ in size.
    view_SSC = noise(side, side, channels)

    turn_quarters(view_SSC, quarters)

    expected_SSC = np.rot90(noise(side, side, channels), quarters)
    np.testing.assert_array_equal(view_SSC, expected_SSC)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_orient__flips_exactly(channels: int) -> None:
    views_BSSC = noise(10, 9, 9, channels)

    orient(views_BSSC, augmentation_draws(1, 0, 10, columns=4), flip_vertical=1.0, turn=0.0)

    np.testing.assert_array_equal(views_BSSC, noise(10, 9, 9, channels)[:, ::-1])


def test_orient__turns_are_equally_likely() -> None:
    num = 3000
    given_SSC = noise(4, 4, 1)
    views_BSSC = np.tile(given_SSC, (num, 1, 1, 1))

    orient(views_BSSC, augmentation_draws(1, 0, num, columns=4), flip_vertical=0.0, turn=0.6)

    for quarters, expected in ((0, 0.4), (1, 0.2), (2, 0.2), (3, 0.2)):
        share = (views_BSSC == np.rot90(given_SSC, quarters)).all(axis=(1, 2, 3)).mean()
        # 5 standard deviations of a binomial share of 3,000 are at most 0.045.
        assert share == pytest.approx(expected, abs=0.045), quarters


@pytest.mark.parametrize("deviation", [0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 4.0, 30.0])
def test_gaussian_weights__are_close_to_the_gaussian(deviation: float) -> None:
    weights_T = gaussian_weights(deviation).astype(int)

    assert weights_T[0] + 2 * weights_T[1:].sum() == WHOLE
    assert (weights_T >= 0).all()
    distances = np.arange(1 + int(10 * deviation))
    exact = np.exp(-0.5 * (distances / deviation) ** 2)
    exact *= WHOLE / (exact[0] + 2 * exact[1:].sum())
    found = np.pad(weights_T, (0, max(0, len(exact) - len(weights_T))))[: len(exact)]
    assert np.abs(found - exact).max() < 1.01
    # Its own deviation is that of the Gaussian, apart from the tails that are below 1/512.
    variance = 2 * (weights_T * np.arange(len(weights_T)) ** 2).sum() / WHOLE
    if deviation >= 0.7:
        assert np.sqrt(variance) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
def test_blurred__is_the_gaussian_within_3_of_255(channels: int, deviation: float) -> None:
    view_SSC = noise(30, 30, channels)

    result_SSC = blurred(view_SSC, deviation)

    distance_SS = np.abs(np.subtract.outer(np.arange(90), np.arange(90)))
    filter_SS = np.exp(-0.5 * (distance_SS / deviation) ** 2)
    filter_SS /= filter_SS.sum(axis=1, keepdims=True)
    padded = np.pad(view_SSC.astype(float), ((30, 30), (30, 30), (0, 0)), mode="edge")
    exact = np.einsum("ij,jkc,lk->ilc", filter_SS, padded, filter_SS, optimize=True)
    exact_SSC = exact[30:60, 30:60]
    difference_SSC = result_SSC - exact_SSC
    assert np.abs(difference_SSC).max() < 3
    assert abs(difference_SSC.mean()) < 0.1


def test_blurred__keeps_a_plain_view() -> None:
    for value, deviation in itertools.product((0, 1, 127, 254, 255), (0.1, 0.8, 2.0, 9.0)):
        view_SSC = np.full((12, 12, 2), value, np.uint8)
        assert (blurred(view_SSC, deviation) == value).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_add_noise__is_normal_and_independent(channels: int) -> None:
    views_BSSC = np.full((40, 24, 24, channels), 120, np.uint8)
    config = NoiseConfig(probability=1.0, deviation=(0.03, 0.03))

    add_noise(views_BSSC, augmentation_draws(1, 0, 40, columns=4), config)

    noise_BSSC = views_BSSC.astype(float) - 120
    num = noise_BSSC.size
    # 0.03 of 255 is 7.65; rounding adds a variance of 1/12. Five standard errors.
    assert noise_BSSC.mean() == pytest.approx(0, abs=5 * 7.65 / num**0.5)
    assert noise_BSSC.std() == pytest.approx(7.656, rel=5 / (2 * num) ** 0.5)
    flat_BX = noise_BSSC.reshape(40, -1)
    neighbours = np.corrcoef(flat_BX[:, 1:].ravel(), flat_BX[:, :-1].ravel())[0, 1]
    assert abs(neighbours) < 5 / num**0.5
    # The largest of 780 correlations of views, each with deviation 1 / sqrt(values).
    between = np.corrcoef(flat_BX) - np.eye(40)
    assert np.abs(between).max() < 6 / flat_BX.shape[1] ** 0.5


def test_add_noise__of_a_view_larger_than_the_table() -> None:
    views_BSSC = np.full((1, 700, 700, 3), 120, np.uint8)

    add_noise(views_BSSC, augmentation_draws(1, 0, 1, columns=4), NoiseConfig(probability=1.0))

    halves = views_BSSC.reshape(2, -1).astype(float)
    assert abs(np.corrcoef(halves)[0, 1]) < 0.01
