"""Suffixes: H height, W width, C channels."""

import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.data.decode import (
    MAX_ASPECT,
    UnreadableImageError,
    decode,
    decode_packed,
    encode_jpeg,
    encode_png,
)
from tests.support.pictures import file_of, gradient, left_right, npy_of, pixels_of, reason

# Refusals


def test_decode__empty_file() -> None:
    assert reason(b"") == "empty file"


def test_decode__not_an_image_shows_how_it_starts() -> None:
    assert reason(b"\x90\x91\x92 something") == "not an image: starts with b'\\x90\\x91\\x92 some'"


def saved(format: str, **options: Any) -> bytes:  # noqa: ANN401  Pillow's own options
    rng = np.random.default_rng(0)
    noise_HWC = rng.integers(0, 256, (64, 64, 3), np.uint8)
    return file_of(Image.fromarray(noise_HWC), format, **options)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("WEBP", {}),
        ("PPM", {}),
    ],
)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.97])
def test_decode__truncated_is_refused(format: str, options: dict[str, Any], kept: float) -> None:
    data = saved(format, **options)
    for side in (None, 4):  # 4: reduced while it is decoded
        assert "truncated" in reason(data[: int(len(data) * kept)], side=side)


def test_decode__cut_inside_the_header() -> None:
    for format in ("JPEG", "PNG", "BMP", "GIF", "WEBP"):
        assert "truncated" in reason(saved(format)[:20]), format


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_decode__damage_never_raises_anything_else(format: str) -> None:
    data, rng, reasons = saved(format), np.random.default_rng(1), [""]
    for _ in range(150):
        damaged = np.frombuffer(data, np.uint8).copy()
        at = rng.integers(0, min(len(data), 300), 5)
        damaged[at] = rng.integers(0, 256, 5)
        try:
            decode(damaged.tobytes(), channels=3, shorter_side=4)
        except UnreadableImageError as error:
            reasons.append(str(error))
    assert len(reasons) > 1
    assert all(0 < len(text) < 300 for text in reasons[1:])


def huge_png(width: int, height: int) -> bytes:
    """A small file whose header promises many pixels."""
    image = Image.new("1", (8, 8))
    data = bytearray(file_of(image))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_decode__bomb_is_refused_before_it_is_decoded() -> None:
    assert reason(huge_png(50000, 50000)) == (
        "50000 x 50000 pixels is over the limit of 178956970 pixels"
    )


def test_decode__large_picture_gives_no_warning() -> None:
    # Over the size at which Pillow warns; the error says that it was tried.
    assert "truncated" in reason(huge_png(10000, 10000))


def test_decode__resized_picture_must_not_be_a_bomb_either() -> None:
    assert "would become" in reason(file_of(Image.new("1", (100, 1))), side=4000)


def test_decode__too_narrow() -> None:
    assert pixels_of(file_of(Image.new("L", (MAX_ASPECT, 1)))).shape == (1, MAX_ASPECT, 3)
    assert "101 x 1 pixels" in reason(file_of(Image.new("L", (MAX_ASPECT + 1, 1))))


def test_decode__other_channels_need_arrays() -> None:
    text = reason(left_right(), channels=4)

    assert "1 or 3 channels, not 4" in text
    assert ".npy" in text


# Arrays


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_decode__npy_of_any_number_of_channels(channels: int) -> None:
    values_HWC = np.random.default_rng(0).integers(0, 256, (6, 7, channels), np.uint8)
    decoded = decode(npy_of(values_HWC), channels=channels, shorter_side=None)

    assert np.array_equal(decoded.pixels_HWC, values_HWC)
    assert (decoded.width, decoded.height, decoded.format) == (7, 6, "NPY")


def test_decode__npy_without_channel_axis() -> None:
    values_HW = np.arange(42, dtype=np.uint8).reshape(6, 7)

    assert np.array_equal(pixels_of(npy_of(values_HW), channels=1)[..., 0], values_HW)
    colours_HWC = pixels_of(npy_of(values_HW), channels=3)
    assert np.array_equal(colours_HWC, np.stack([values_HW] * 3, axis=-1)), "as from a grey PNG"
    five_HWC = np.zeros((4, 4, 5), np.uint8)
    assert "NPY of 5 channels, not 3: dataset.channels: 5 reads it" in reason(npy_of(five_HWC))


def test_decode__npy_fortran_order_and_version_2() -> None:
    values_HWC = gradient(6, 7)
    file = BytesIO()
    np.lib.format.write_array(file, np.asfortranarray(values_HWC), version=(2, 0))

    assert np.array_equal(pixels_of(file.getvalue()), values_HWC)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_decode__npy_16_bit(dtype: str) -> None:
    values_HWC = np.array([[[0, 100], [65535, 300]]], dtype)

    assert pixels_of(npy_of(values_HWC), 2).tolist() == [[[0, 0], [255, 1]]]
    stretched = pixels_of(npy_of(values_HWC), 2, deep="stretch").tolist()
    assert stretched == [[[0, 0], [255, 255]]], "each channel has its own ends"


def test_decode__npy_is_resized_like_a_picture() -> None:
    as_array = decode(npy_of(gradient()), channels=3, shorter_side=16).pixels_HWC
    as_png = decode(file_of(Image.fromarray(gradient())), channels=3, shorter_side=16).pixels_HWC

    assert np.array_equal(as_array, as_png)


def test_decode__npy_never_unpickles() -> None:
    assert "array of object" in reason(npy_of(np.array([[print]], dtype=object)))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.zeros((4, 4), np.float32), "array of float32; uint8 and uint16"),
        (np.zeros((2, 4, 4, 3), np.uint8), "array of shape (2, 4, 4, 3)"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels"),
    ],
)
def test_decode__npy_of_another_kind(values: NDArray[Any], text: str) -> None:
    assert text in reason(npy_of(values))


def test_decode__npy_truncated_or_bomb() -> None:
    data = npy_of(gradient())
    large = b"(999999999, 999999999, 3), }"
    bomb = data.replace(b"(40, 60, 3), }".ljust(len(large)), large)

    assert bomb != data
    for cut in (data[:-1], data[:20], bomb):
        assert "truncated" in reason(cut)


# Packing


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_png__comes_back_exactly(channels: int) -> None:
    pixels_HWC = gradient()[..., :channels]
    packed_HWC = decode_packed(encode_png(pixels_HWC))

    assert np.array_equal(packed_HWC, pixels_HWC)
    assert packed_HWC.shape == (40, 60, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_jpeg__comes_back_nearly(channels: int) -> None:
    pixels_HWC = np.repeat(gradient()[..., 1:2], channels, axis=2)
    packed_HWC = decode_packed(encode_jpeg(pixels_HWC, 95))

    assert packed_HWC.shape == pixels_HWC.shape
    assert np.abs(packed_HWC.astype(int) - pixels_HWC).max() < 8
    assert len(encode_jpeg(pixels_HWC, 50)) < len(encode_jpeg(pixels_HWC, 95))


def test_encode_jpeg__refuses_what_the_format_cannot_hold() -> None:
    with pytest.raises(UnreadableImageError, match="65501 x 2 pixels: a JPEG"):
        encode_jpeg(np.zeros((2, 65501, 1), np.uint8), 95)


def test_encode_jpeg__refuses_other_channels() -> None:
    with pytest.raises(ValueError, match="not 5: pack raw"):
        encode_jpeg(np.zeros((4, 4, 5), np.uint8), 95)
