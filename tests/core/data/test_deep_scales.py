"""Percentiles of a data set. Suffixes: H height, W width, C channels."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.data.deep_scales import (
    VALUES_PER_PICTURE,
    DeepScales,
    Measurement,
    kind_of,
    sample,
)
from deepcluster_core.data.picture_values import channel_values
from tests.support.pictures import file_of, npy_of, pixels_of
from tests.support.png_chunks import png_of_16_bits


def values(*sides: int, top: int = 4096) -> NDArray[np.uint16]:
    return np.random.default_rng(2).integers(100, top, sides).astype(np.uint16)


def scales_of(*arrays: NDArray[np.uint16]) -> DeepScales:
    measurement = Measurement()
    for values_HWC in arrays:
        measurement.add(kind_of(values_HWC), sample(values_HWC, None))
    return measurement.scales()


def test_scales__twelve_of_sixteen_bits_fill_the_range() -> None:
    values_HWC = values(40, 50, 1)
    pixels_HWC = scales_of(values_HWC).eight_bits(values_HWC)

    assert (pixels_HWC.min(), pixels_HWC.max()) == (0, 255)
    assert abs(pixels_HWC.mean() - 127) < 5


def test_scales__a_few_dead_or_saturated_pixels_do_not_matter() -> None:
    values_HWC = values(100, 100, 1, top=200)
    spoilt_HWC = values_HWC.copy()
    spoilt_HWC[0, :5] = 65535
    spoilt_HWC[1, :5] = 0

    assert scales_of(spoilt_HWC).by_kind["integers, 1 channel"].high[0] == 199


def test_scales__one_scale_for_all_pictures_and_one_for_each_channel() -> None:
    bright_HWC = values(30, 30, 3)
    bright_HWC[..., 2] //= 10
    scales = scales_of(bright_HWC, bright_HWC // 2)
    scale = scales.by_kind["integers, 3 channels"]

    assert scale.pictures == 2
    assert scale.high[0] > 9 * scale.high[2]
    dark, bright = (scales.eight_bits(each).mean() for each in (bright_HWC // 2, bright_HWC))
    assert dark < 0.6 * bright, "brightness stays comparable between pictures"
    assert max(scale.below + scale.above) < 0.0012, "one of a thousand, of 1,800"


def test_scales__not_of_a_picture_that_is_all_transparent() -> None:
    measurement = Measurement()
    none_shown_HW = np.zeros((30, 30), np.bool_)
    measurement.add("integers, 3 channels", sample(values(30, 30, 3), none_shown_HW))

    assert measurement.scales().by_kind == {}


def test_scales__few_bright_pixels_on_a_uniform_ground() -> None:
    values_HWC = np.full((100, 100, 1), 7, np.uint16)
    values_HWC[3, 3] = 900

    pixels_HWC = scales_of(values_HWC).eight_bits(values_HWC)

    assert (pixels_HWC[3, 3, 0], pixels_HWC[0, 0, 0]) == (255, 0)
    uniform_HWC = np.full((4, 4, 1), 7, np.uint16)
    assert (scales_of(uniform_HWC).eight_bits(uniform_HWC) == 0).all()


def test_scales__survive_a_manifest() -> None:
    scales = scales_of(values(20, 20, 1), values(20, 20, 3))
    again = DeepScales.from_facts(json.loads(json.dumps(scales.facts())))
    assert again == scales
    assert len(scales.sentences()) == 2


def test_sample__is_bounded_and_leaves_transparent_pixels_out() -> None:
    large_HWC = values(3000, 20, 4)
    assert len(sample(large_HWC, None)) * 4 <= VALUES_PER_PICTURE
    small_HWC = values(4, 4, 1)
    shown_HW = np.zeros((4, 4), bool)
    shown_HW[1] = True
    assert sample(small_HWC, shown_HW)[:, 0].tolist() == small_HWC[1, :, 0].tolist()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channel_values__all_bits_of_a_png(channels: int) -> None:
    values_HWC = values(13, 17, channels, top=65536)
    found = channel_values(png_of_16_bits(values_HWC), 3)

    assert found is not None
    colours = 1 if channels < 3 else 3
    assert np.array_equal(found.values_HWC, values_HWC[..., :colours])
    if channels in (2, 4):
        assert found.alpha_HW is not None
        assert np.array_equal(found.alpha_HW, values_HWC[..., -1] >> 8)


def test_decode__eight_bits_are_never_scaled() -> None:
    scales = scales_of(values(20, 20, 1))
    assert (pixels_of(file_of(Image.new("L", (4, 4), 9)), 1, deep=scales) == 9).all()
    assert (pixels_of(npy_of(np.full((4, 4, 2), 9, np.uint8)), 2, deep=scales) == 9).all()
