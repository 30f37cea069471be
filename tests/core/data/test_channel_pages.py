"""Stacks as tifffile writes them, whose pages become channels, against what tifffile reads.

Suffixes: H height, W width, C channels, P pages.
"""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.data.decode import decode
from deepcluster_core.data.deep_scales import DeepScales, Measurement, kind_of, sample
from deepcluster_core.data.picture_values import channel_values
from tests.support.dicoms import dicom_of
from tests.support.pictures import file_of, gradient, pixels_of, problem, reason

PAGES = 5
WRITERS: dict[str, dict[str, Any]] = {
    "pages": {"photometric": "minisblack"},
    "ImageJ": {"imagej": True, "metadata": {"axes": "CYX"}},
    "OME": {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX"}},
    "Deflate": {"photometric": "minisblack", "compression": "zlib"},
    "tiles": {"photometric": "minisblack", "tile": (16, 16)},
    "big-endian": {"photometric": "minisblack", "byteorder": ">"},
    "BigTIFF": {"photometric": "minisblack", "bigtiff": True},
}


def noise(dtype: str, pages: int = PAGES) -> NDArray[Any]:
    """Return random values (P, H, W)."""
    rng = np.random.default_rng(4)
    if dtype.startswith("float"):
        return rng.normal(0, 3, (pages, 24, 40)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (pages, 24, 40), dtype, endpoint=True)


def stack_of(values_PHW: NDArray[Any], **options: Any) -> bytes:  # noqa: ANN401  tifffile's own
    file = BytesIO()
    all_options: dict[str, Any] = {"photometric": "minisblack"} | options
    tifffile.imwrite(file, values_PHW, **all_options)
    return file.getvalue()


def mixed(*pages: NDArray[Any], **options: Any) -> bytes:  # noqa: ANN401
    """Return a file of pages that differ."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(page, **options)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("writer", WRITERS)
def test_channel_values__are_those_that_tifffile_reads(writer: str, dtype: str) -> None:
    if (writer, dtype) == ("ImageJ", "int16"):
        pytest.skip("ImageJ has no such files")
    file = BytesIO()
    tifffile.imwrite(file, noise(dtype), **WRITERS[writer])
    read_PHW = tifffile.imread(BytesIO(file.getvalue()))

    found = channel_values(file.getvalue(), PAGES, "channels")

    assert found is not None
    assert found.values_HWC.dtype.kind == read_PHW.dtype.kind
    assert np.array_equal(found.values_HWC, read_PHW.transpose(1, 2, 0))


@pytest.mark.parametrize("pages", [2, 3, 5])
@pytest.mark.parametrize("writer", WRITERS)
def test_decode__pages_of_8_bits_as_tifffile_reads_them(writer: str, pages: int) -> None:
    file = BytesIO()
    tifffile.imwrite(file, noise("uint8", pages), **WRITERS[writer])
    read_PHW = tifffile.imread(BytesIO(file.getvalue()))

    found = decode(file.getvalue(), channels=pages, shorter_side=None, pages="channels")

    assert (found.num_pages, found.format) == (pages, "TIFF")
    assert np.array_equal(found.pixels_HWC, read_PHW.transpose(1, 2, 0))


def test_decode__all_pages_of_a_hyperstack() -> None:
    values_ZCHW = noise("uint16", 6).reshape(3, 2, 24, 40)
    data = stack_of(values_ZCHW, imagej=True, metadata={"axes": "ZCYX"})

    found = channel_values(data, 6, "channels")

    assert found is not None
    assert np.array_equal(found.values_HWC, noise("uint16", 6).transpose(1, 2, 0))


def test_decode__each_page_has_percentiles_of_its_own() -> None:
    brightness_P11 = np.array([1, 2, 4, 8, 16])[:, None, None]
    values_PHW = (noise("uint16").astype(int) // 16 // brightness_P11).astype(np.uint16)
    measurement = Measurement()
    values_HWC = values_PHW.transpose(1, 2, 0)
    measurement.add(kind_of(values_HWC), sample(values_HWC, None))
    scales: DeepScales = measurement.scales()

    data = stack_of(values_PHW)
    found = decode(data, channels=PAGES, shorter_side=None, deep=scales, pages="channels")

    low_C, high_C = np.percentile(values_HWC, [0.1, 99.9], axis=(0, 1))
    share_HWC = (values_HWC - low_C) / (high_C - low_C)
    np.testing.assert_allclose(found.pixels_HWC / 255, share_HWC.clip(0, 1), atol=1 / 255)


def test_decode__white_is_zero_in_one_page() -> None:
    first_HW, second_HW = noise("uint16", 2)
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(first_HW, photometric="minisblack")
        writer.write(second_HW, photometric="miniswhite")

    found = channel_values(file.getvalue(), 2, "channels")

    assert found is not None
    assert np.array_equal(found.values_HWC[..., 1], 65535 - second_HW)


def test_decode__frames_of_a_dicom_file() -> None:
    frames_PHW = noise("uint16", 4) // 16
    data = dicom_of(frames_PHW, frames=4, bits=12)
    found = channel_values(data, 4, "channels")
    assert found is not None
    assert np.array_equal(found.values_HWC, frames_PHW.transpose(1, 2, 0))
    text = reason(data, 3, pages="channels")
    assert text == "DICOM of 4 pages, not 3: dataset.channels: 4 reads it"
    single = dicom_of(frames_PHW[0], bits=12)
    assert reason(single, 3, pages="channels").startswith("DICOM of 1 page, not 3")


@pytest.mark.parametrize(("pages", "number"), [(1, "1 page"), (4, "4 pages")])
def test_decode__other_numbers_of_pages_are_refused(pages: int, number: str) -> None:
    data = stack_of(noise("uint8", pages))
    text = f"TIFF of {number}, not 3: dataset.channels: {pages} reads it"
    assert reason(data, 3, pages="channels") == text
    assert decode(data, channels=pages, shorter_side=8, pages="channels").pixels_HWC.any()


def test_decode__pages_that_differ_are_refused() -> None:
    first_HW, second_HW = noise("uint16", 2)
    pairs = {
        "40 x 8 pixels of 16 bits": second_HW[:8],
        "40 x 24 pixels of 8 bits": second_HW.astype(np.uint8),
        "40 x 24 pixels of 16 bits with a sign": second_HW.astype(np.int16),
        "40 x 24 pixels of 32 bits in floating point": second_HW.astype(np.float32),
    }
    for described, page_HW in pairs.items():
        data = mixed(first_HW, page_HW, photometric="minisblack")
        text = reason(data, 2, pages="channels")
        first = "the first one 40 x 24 pixels of 16 bits"
        assert text.startswith(f"page 2 has {described}, but {first}, so that they are not")


def test_decode__coloured_pages_are_refused() -> None:
    rgb_HWC = gradient(24, 40)
    text = reason(mixed(rgb_HWC, rgb_HWC, photometric="rgb"), 2, pages="channels")
    assert text.startswith("page 1 has 3 channels, but dataset.pages: channels joins pages of one")
    palette = np.zeros((3, 256), np.uint16)
    stack = mixed(*noise("uint8", 2), photometric="palette", colormap=palette)
    assert reason(stack, 2, pages="channels").startswith("page 1 is not grey but coloured")


def test_decode__files_of_one_page_of_all_channels_are_read_as_always() -> None:
    values_HWC = noise("uint8").transpose(1, 2, 0)
    bands = stack_of(values_HWC, planarconfig="contig")
    decoded = decode(bands, channels=PAGES, shorter_side=None, pages="channels")
    assert np.array_equal(decoded.pixels_HWC, values_HWC)
    png = file_of(Image.fromarray(gradient()))
    found = decode(png, channels=3, shorter_side=None, pages="channels")
    assert np.array_equal(found.pixels_HWC, pixels_of(png))


def test_decode__a_stack_of_as_many_pages_names_the_setting() -> None:
    text = "TIFF of 5 pages of 1 channel: dataset.pages: channels joins them"
    assert reason(stack_of(noise("uint16")), PAGES) == text


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_decode__damaged_stacks_are_refused_or_read(dtype: str) -> None:
    data = stack_of(noise(dtype))
    rng = np.random.default_rng(0)
    for number in range(120):
        damaged = bytearray(data)
        if number % 2:
            damaged = damaged[: rng.integers(len(data))]
        for at in rng.integers(0, max(1, len(damaged)), 4):
            damaged[at : at + 1] = rng.bytes(1)
        assert problem(bytes(damaged), PAGES, "channels") != "no reason"
