"""Suffixes: H height, W width, C channels."""

from collections.abc import Callable
from io import BytesIO
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.data import decode as decode_module
from deepcluster_core.data.decode import (
    decode,
)
from deepcluster_core.data.deep_values import Simple
from tests.support.pictures import file_of, gradient, left_right, npy_of, pixels_of, reason

RED, WHITE = [255, 0, 0], [255, 255, 255]


# Kinds of pictures


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_decode__lossless_formats_keep_every_pixel(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = decode(
        file_of(Image.fromarray(gradient()), format, **options), channels=3, shorter_side=None
    )

    assert np.array_equal(decoded.pixels_HWC, gradient())
    assert decoded.pixels_HWC.dtype == np.uint8
    assert (decoded.width, decoded.height, decoded.format) == (60, 40, format)


def test_decode__jpeg_is_close() -> None:
    image = Image.fromarray(gradient()[..., :2].repeat(2, axis=2)[..., :3])
    pixels_HWC = pixels_of(file_of(image, "JPEG", quality=95))

    assert np.abs(pixels_HWC.astype(int) - np.asarray(image)).mean() < 5  # chroma is subsampled


def test_decode__pixels_can_be_written_to() -> None:
    for data in (file_of(Image.fromarray(gradient())), npy_of(gradient())):
        pixels_of(data)[0, 0] = 7


def test_decode__grey_and_colour_are_turned_into_each_other() -> None:
    grey = file_of(Image.new("L", (5, 4), 77))
    colour = file_of(Image.new("RGB", (5, 4), (255, 0, 0)))

    assert (pixels_of(grey) == 77).all()
    assert pixels_of(grey).shape == (4, 5, 3)
    assert (pixels_of(colour, channels=1) == 76).all()  # ITU-R 601: 0.299 x 255
    assert pixels_of(colour, channels=1).shape == (4, 5, 1)


def test_decode__one_bit_becomes_black_and_white() -> None:
    image = Image.new("1", (4, 4), 1)
    image.putpixel((0, 0), 0)

    assert pixels_of(file_of(image), channels=1)[0, :2, 0].tolist() == [0, 255]


def test_decode__palette_gives_its_colours() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])

    assert pixels_of(file_of(image))[0, 0].tolist() == RED
    assert pixels_of(file_of(image, "GIF"))[0, 0].tolist() == RED
    assert pixels_of(file_of(image), channels=1)[0, 0].tolist() == [76]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"], ids=["index", "alpha-table"])
def test_decode__transparent_palette_entry_is_white(transparency: int | bytes) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((2, 1), 0)

    pixels_HWC = pixels_of(file_of(image, transparency=transparency))

    assert pixels_HWC[1, 2].tolist() == WHITE
    assert pixels_HWC[0, 0].tolist() == RED


def test_decode__transparent_gif_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((2, 1), 0)

    assert pixels_of(file_of(image, "GIF", transparency=0))[1, 2].tolist() == WHITE


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_decode__alpha_is_laid_on_white(format: str) -> None:
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))

    pixels_HWC = pixels_of(file_of(image, format, **options))

    assert pixels_HWC[0, :3].tolist() == [WHITE, [127] * 3, RED]


def test_decode__grey_with_alpha_is_laid_on_white() -> None:
    image = Image.new("LA", (4, 4), (50, 255))
    image.putpixel((0, 0), (50, 0))

    for channels in (1, 3):
        assert pixels_of(file_of(image), channels=channels)[0, :2, 0].tolist() == [255, 50]


@pytest.mark.parametrize(("mode", "key"), [("RGB", (9, 9, 9)), ("L", 9), ("1", 0)])
def test_decode__colour_key_is_transparent(mode: str, key: int | tuple[int, int, int]) -> None:
    image = Image.new(mode, (4, 4), "white")
    image.putpixel((0, 0), key)

    assert pixels_of(file_of(image, transparency=key))[0, 0].tolist() == WHITE


def test_decode__premultiplied_alpha() -> None:
    straight = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    straight.putpixel((0, 0), (0, 0, 0, 0))

    for image, opaque in ((straight, RED), (straight.convert("LA"), [76] * 3)):
        data = bytearray(file_of(image, "TIFF"))
        at = data.index(np.array([338, 3, 1, 0], "<u2").tobytes()) + 8  # tag ExtraSamples
        assert data[at] == 2  # not multiplied …
        data[at] = 1  # … but now said to be
        assert pixels_of(bytes(data))[0, :2].tolist() == [WHITE, opaque]


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_decode__cmyk(format: str) -> None:
    data = file_of(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), format)

    assert np.abs(pixels_of(data)[8, 8].astype(int) - RED).max() < 8
    assert abs(int(pixels_of(data, channels=1)[8, 8, 0]) - 76) < 8


def test_decode__lab_colours() -> None:
    data = file_of(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF")

    assert np.abs(pixels_of(data).astype(int) - 255).max() < 4


def test_decode__first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]

    for format in ("GIF", "PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = file_of(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert pixels_of(data)[0, 0].tolist() == RED, format


# More than 8 bits


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_decode__16_bit_range_keeps_the_scale(format: str) -> None:
    values_HW = np.array([[0, 257, 4095], [32768, 65534, 65535]], np.uint16)
    pixels_HWC = pixels_of(file_of(Image.fromarray(values_HW), format), channels=1)

    assert pixels_HWC[..., 0].tolist() == [[0, 1, 16], [128, 255, 255]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_decode__16_bit_stretch_makes_12_bit_visible(format: str) -> None:
    values_HW = np.array([[1000, 2000], [3000, 4095]], np.uint16)
    data = file_of(Image.fromarray(values_HW), format)

    assert pixels_of(data, deep="range").max() == 16
    assert pixels_of(data, channels=1, deep="stretch")[..., 0].tolist() == [[0, 82], [165, 255]]


def test_decode__16_bit_big_endian() -> None:
    values_HW = np.array([[0, 65535], [25700, 0]], ">u2")
    image = Image.frombytes("I;16B", (2, 2), values_HW.tobytes())

    assert pixels_of(file_of(image, "TIFF"), 1)[..., 0].tolist() == [[0, 255], [100, 0]]


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_decode__integers_and_floats(dtype: str) -> None:
    fits_HW = np.array([[0, 25700], [65535, 0]], dtype)
    data, wide = (file_of(Image.fromarray(v), "TIFF") for v in (fits_HW, fits_HW * 3 - 500))

    assert pixels_of(data, 1)[..., 0].tolist() == [[0, 100], [255, 0]]
    assert pixels_of(wide, 1, deep="stretch")[..., 0].tolist() == [[0, 100], [255, 0]]
    assert "from -500 to 196105 do not use the 16-bit range; deep: stretch" in reason(wide)


def test_decode__fractions_are_not_silently_black() -> None:
    data = file_of(Image.fromarray(np.array([[0, 0.5], [1, 0]], np.float32)), "TIFF")

    assert "deep: stretch" in reason(data)
    assert pixels_of(data, 1, deep="stretch")[..., 0].tolist() == [[0, 128], [255, 0]]


@pytest.mark.parametrize("deep", ["range", "stretch"])
def test_decode__not_a_number_is_refused(deep: Simple) -> None:
    data = file_of(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")

    assert "not numbers" in reason(data, deep=deep)


def test_decode__uniform_picture_can_be_stretched() -> None:
    data = file_of(Image.fromarray(np.full((3, 3), 700, np.uint16)))

    assert (pixels_of(data, deep="stretch") == 0).all()


def test_decode__stretch_leaves_8_bit_alone() -> None:
    assert (pixels_of(file_of(Image.new("L", (4, 4), 9)), deep="stretch") == 9).all()


# Orientation, size


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode__orientation_makes_upright(format: str, orientation: int) -> None:
    upright_HW = np.zeros((32, 64), np.uint8)
    upright_HW[:16, :16], upright_HW[:16, 48:] = 255, 128
    # How EXIF defines what is stored, from the upright picture.
    stored: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    image = Image.fromarray(np.ascontiguousarray(stored[orientation](upright_HW))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation

    decoded = decode(file_of(image, format, exif=exif), channels=1, shorter_side=16)

    assert (decoded.width, decoded.height) == (64, 32)
    assert decoded.pixels_HWC.shape == (16, 32, 1)
    marks = [int(decoded.pixels_HWC[y, x, 0]) for y, x in ((3, 3), (3, 28), (12, 3), (12, 28))]
    assert np.abs(np.array(marks) - [255, 128, 0, 0]).max() < 12  # JPEG and WebP lose a little


def test_decode__orientation_applies_to_reduced_jpegs() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(gradient(320, 641))
    decoded = decode(file_of(image, "JPEG", exif=exif), channels=3, shorter_side=32)

    assert (decoded.width, decoded.height) == (320, 641)
    assert decoded.pixels_HWC.shape == (64, 32, 3)


@pytest.mark.parametrize("note", [b"Exif\0\0II*\0garbage", b"Exif\0\0", b"Exif\0\0XX"])
def test_decode__damaged_exif_is_no_reason_to_refuse(note: bytes) -> None:
    assert pixels_of(left_right(exif=note)).shape == (16, 32, 3)


@pytest.mark.parametrize(
    ("size", "side", "shape"),
    [
        ((60, 40), 20, (20, 30)),
        ((40, 60), 20, (30, 20)),
        ((60, 40), 80, (80, 120)),
        ((33, 33), 7, (7, 7)),
        ((100, 30), 20, (20, 66)),
        ((100, 1), 2, (2, 200)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_decode__shorter_side_is_exact(
    format: str, size: tuple[int, int], side: int, shape: tuple[int, int]
) -> None:
    decoded = decode(file_of(Image.new("RGB", size), format), channels=3, shorter_side=side)

    assert decoded.pixels_HWC.shape == (*shape, 3)
    assert (decoded.width, decoded.height) == size


def test_decode__reducing_is_antialiased() -> None:
    stripes_HW = np.tile(np.array([0, 255], np.uint8), (64, 32))
    pixels_HWC = decode(file_of(Image.fromarray(stripes_HW)), channels=1, shorter_side=8).pixels_HWC

    assert np.abs(pixels_HWC.astype(int) - 128).max() < 10, "single stripes must not survive"


def test_decode__reduced_jpeg_is_close_to_the_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    blocks_HWC = rng.integers(0, 256, (40, 60, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    data = file_of(Image.fromarray(blocks_HWC), "JPEG", quality=92)
    loaded: list[tuple[int, int]] = []
    to_8_bit = decode_module._to_8_bit  # pyright: ignore[reportPrivateUsage]

    def spy(image: Image.Image, mode: Literal["L", "RGB"], deep: Simple) -> Image.Image:
        loaded.append(image.size)
        return to_8_bit(image, mode, deep)

    monkeypatch.setattr(decode_module, "_to_8_bit", spy)
    reduced = decode(data, channels=3, shorter_side=64)
    full = Image.open(BytesIO(data)).resize((96, 64), Image.Resampling.BILINEAR)

    assert loaded == [(240, 160)], "1/4, since 1/8 would be less than twice 64"
    assert (reduced.width, reduced.height) == (960, 640)
    assert np.abs(reduced.pixels_HWC.astype(int) - np.asarray(full)).mean() < 2
