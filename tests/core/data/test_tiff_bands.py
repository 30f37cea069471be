"""TIFF files as tifffile writes them, against what tifffile reads from them.

Suffixes: H height, W width, C bands, P pages.
"""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from deepcluster_core.data.decode import decode
from deepcluster_core.data.deep_scales import DeepScales, Measurement, kind_of, sample
from deepcluster_core.data.picture_values import channel_values, is_deep_file
from tests.support.pictures import pixels_of, problem, reason

LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {},
    "planes": {"planarconfig": "separate"},
    "big-endian": {"byteorder": ">"},
    "tiles": {"tile": (16, 16)},
    "planes of tiles": {"planarconfig": "separate", "tile": (16, 16)},
    "Deflate": {"compression": "zlib"},
    "Deflate with a predictor": {"compression": "zlib", "predictor": True},
    "planes in Deflate": {"planarconfig": "separate", "compression": "zlib"},
    "planes in Deflate, big-endian": {
        "planarconfig": "separate",
        "compression": "zlib",
        "byteorder": ">",
    },
    "BigTIFF": {"bigtiff": True},
}
DTYPES = ("uint8", "uint16", "int16", "uint32", "float32", "float64")


def noise(channels: int, dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(4)
    if dtype.startswith("float"):
        return rng.normal(0, 3, (24, 40, channels)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (24, 40, channels), dtype, endpoint=True)


def file_of(values_HWC: NDArray[Any], **options: Any) -> bytes:  # noqa: ANN401  tifffile's own
    stored = values_HWC
    if options.get("planarconfig") == "separate":
        stored = values_HWC.transpose(2, 0, 1)
    file = BytesIO()
    all_options: dict[str, Any] = {"photometric": "minisblack"} | options
    tifffile.imwrite(file, stored, **all_options)
    return file.getvalue()


def stack_of(values_PHW: NDArray[Any], **options: Any) -> bytes:  # noqa: ANN401
    file = BytesIO()
    tifffile.imwrite(file, values_PHW, photometric="minisblack", **options)
    return file.getvalue()


def scales_of(values_HWC: NDArray[Any]) -> DeepScales:
    measurement = Measurement()
    measurement.add(kind_of(values_HWC), sample(values_HWC, None))
    return measurement.scales()


def mapped(values_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    """Return what percentiles should make of values, computed in another way."""
    low_C, high_C = np.percentile(values_HWC.astype(float), [0.1, 99.9], axis=(0, 1))
    share_HWC = (values_HWC - low_C) / (high_C - low_C)
    return np.rint(255 * share_HWC.clip(0, 1)).astype(np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_channel_values__bands_are_those_that_tifffile_reads(layout: str, dtype: str) -> None:
    if layout == "Deflate with a predictor" and dtype.startswith("float"):
        pytest.skip("tifffile needs imagecodecs for it")
    values_HWC = noise(5, dtype)
    data = file_of(values_HWC, **{"planarconfig": "contig"} | LAYOUTS[layout])

    found = channel_values(data, 5)

    assert found is not None
    assert found.values_HWC.dtype == values_HWC.dtype
    assert np.array_equal(found.values_HWC, values_HWC)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("extra", [None, "unassalpha", "assocalpha", "unspecified"])
def test_channel_values__all_bits_of_16_bit_colour(layout: str, extra: str | None) -> None:
    values_HWC = noise(3, "uint16")
    if extra is not None:
        alpha_HW1 = np.full((24, 40, 1), 65535, np.uint16)
        values_HWC = np.concatenate([values_HWC, alpha_HW1], axis=-1)
    data = file_of(
        values_HWC,
        photometric="rgb",
        extrasamples=None if extra is None else [extra],
        **{"planarconfig": "contig"} | LAYOUTS[layout],
    )

    found = channel_values(data, 3)

    assert found is not None
    assert np.array_equal(found.values_HWC, values_HWC[..., :3])


def test_channel_values__premultiplied_colour_is_divided_by_alpha() -> None:
    colour_HWC = noise(3, "uint16")
    half_HWC = np.concatenate([colour_HWC // 2, np.full((24, 40, 1), 32768, np.uint16)], axis=-1)
    data = file_of(half_HWC, photometric="rgb", extrasamples=["assocalpha"])

    found = channel_values(data, 3)

    assert found is not None
    difference_HWC = np.abs(found.values_HWC.astype(int) - colour_HWC)
    assert difference_HWC.max() <= 2, "what halving has rounded"


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_decode__percentiles_by_channel(dtype: str, channels: int) -> None:
    values_HWC = noise(channels, dtype)
    photometric = "rgb" if channels == 3 else "minisblack"
    options = {} if channels == 1 else {"planarconfig": "contig"}
    stored = values_HWC[..., 0] if channels == 1 else values_HWC
    data = file_of(stored, photometric=photometric, **options)

    pixels_HWC = pixels_of(data, channels, deep=scales_of(values_HWC))

    difference_HWC = np.abs(pixels_HWC.astype(int) - mapped(values_HWC))
    assert difference_HWC.max() <= 1, "values are measured as float32"
    assert (difference_HWC > 0).mean() < 0.001


def test_decode__white_is_zero() -> None:
    values_HWC = noise(4, "uint16")
    dark = file_of(values_HWC, photometric="miniswhite", planarconfig="contig")
    bright = file_of(65535 - values_HWC, planarconfig="contig")

    assert np.array_equal(pixels_of(dark, 4), pixels_of(bright, 4))


def test_decode__four_bands_of_8_bits() -> None:
    values_HWC = noise(4, "uint8")
    for photometric in ("minisblack", "rgb"):
        data = file_of(values_HWC, photometric=photometric, planarconfig="contig")
        assert np.array_equal(pixels_of(data, 4), values_HWC)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode__orientation(orientation: int) -> None:
    values_HWC = noise(3, "uint8")
    tag = (274, "H", 1, orientation, True)
    by_pillow = file_of(values_HWC, photometric="rgb", extratags=[tag])
    five_HWC = np.concatenate([values_HWC, values_HWC[..., :2]], axis=-1)
    by_tifffile = file_of(five_HWC, planarconfig="contig", extratags=[tag])

    assert np.array_equal(pixels_of(by_tifffile, 5)[..., :3], pixels_of(by_pillow, 3))


def test_decode__other_number_of_channels_is_told() -> None:
    data = file_of(noise(5, "uint16"), planarconfig="contig")
    assert reason(data, 3) == "TIFF of 5 channels, not 3: dataset.channels: 5 reads it"
    assert reason(data, 4) == "TIFF of 5 channels, not 4: dataset.channels: 5 reads it"


def test_decode__values_of_another_kind_are_refused() -> None:
    scales = scales_of(noise(1, "uint16"))
    data = file_of(noise(1, "float32")[..., 0])
    assert "fractions, 1 channel" in reason(data, 1, deep=scales)
    assert "integers, 1 channel" in reason(data, 1, deep=scales)


def test_decode__infinite_values_are_refused() -> None:
    values_HWC = noise(5, "float32")
    values_HWC[3, 3, 3] = np.nan
    data = file_of(values_HWC, planarconfig="contig")
    assert "not numbers" in reason(data, 5, deep=scales_of(noise(5, "float32")))


@pytest.mark.usefixtures("without_extras")
def test_decode__without_the_extra_the_package_is_named() -> None:
    data = file_of(noise(5, "uint16"), planarconfig="contig")
    assert "needs the package tifffile: pip install 'deepcluster-pipeline[tiff]'" in reason(data, 5)


# Pages


def test_decode__first_page_and_their_number() -> None:
    values_PHW = noise(7, "uint16").transpose(2, 0, 1)
    decoded = decode(stack_of(values_PHW), channels=1, shorter_side=None)

    assert decoded.num_pages == 7
    expected_HW = (values_PHW[0].astype(int) + 128) // 257
    assert np.array_equal(decoded.pixels_HWC[..., 0], expected_HW)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_decode__maximum_of_all_pages(dtype: str) -> None:
    values_PHW = np.abs(noise(7, dtype).transpose(2, 0, 1))
    highest_HW = values_PHW.max(axis=0)
    alone = file_of(highest_HW)
    for options in ({}, {"compression": "zlib"}, {"byteorder": ">"}, {"bigtiff": True}):
        data = stack_of(values_PHW, **options)
        found = decode(data, channels=1, shorter_side=None, deep="stretch", pages="max")
        assert np.array_equal(found.pixels_HWC, pixels_of(alone, 1, deep="stretch"))


def test_decode__pages_of_different_sizes_have_no_maximum() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(noise(1, "uint16")[..., 0])
        writer.write(noise(1, "uint16")[:8, ..., 0])
    with pytest.raises(ValueError, match="its pages differ in size"):
        decode(file.getvalue(), channels=1, shorter_side=None, pages="max")


def test_num_pages__without_smaller_copies() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(noise(3, "uint8"), photometric="rgb")
        writer.write(noise(3, "uint8")[::2, ::2], photometric="rgb", subfiletype=1)
    assert decode(file.getvalue(), channels=3, shorter_side=None).num_pages == 1


# Files that somebody has damaged


@pytest.mark.parametrize("layout", ["strips", "planes", "Deflate", "tiles", "BigTIFF"])
def test_decode__damaged_files_are_refused_or_read(layout: str) -> None:
    values_HWC = noise(5, "uint16")
    data = file_of(values_HWC, **{"planarconfig": "contig"} | LAYOUTS[layout])
    rng = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(data)
        if number % 2:
            damaged = damaged[: rng.integers(len(data))]
        for at in rng.integers(0, max(1, len(damaged)), 4):
            damaged[at : at + 1] = rng.bytes(1)
        for pages in (None, "max"):
            assert problem(bytes(damaged), 5, pages) != "no reason"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_decode__truncated_file_is_called_truncated(share: float) -> None:
    data = file_of(noise(5, "uint16"), planarconfig="contig")
    text = reason(data[: int(len(data) * share)], 5)
    assert "truncated" in text


def test_decode__too_many_values_are_refused_before_decoding() -> None:
    data = file_of(noise(200, "float64")[:8, :8], planarconfig="contig")
    huge = bytearray(data)
    for tag in (256, 257):  # width and height
        at = huge.index(tag.to_bytes(2, "little") + b"\4\0")
        huge[at + 8 : at + 12] = (9000).to_bytes(4, "little")
    assert "over the limit" in reason(bytes(huge), 200)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_is_deep_file(dtype: str) -> None:
    assert is_deep_file(file_of(noise(5, dtype), planarconfig="contig")) == (dtype != "uint8")
