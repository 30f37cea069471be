"""Pictures of more than 8 bits go by the rules of those of 8. Suffixes: H height, W width."""

import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.data.decode import decode, upright_size
from tests.support.pictures import file_of, pixels_of, reason
from tests.support.png_chunks import chunk, with_chunks
from tests.support.tiffs import Order, packed_12_bit, tiff_of

RNG = np.random.default_rng(0)
DEEP_HW = RNG.integers(0, 65536, (6, 8)).astype(np.uint16)
DEEP_HW[0, :2] = 0, 65535
SHOWN_HW = ((DEEP_HW.astype(int) + 128) // 257).astype(np.uint8)
"""What `range` makes of the values."""

LAYOUTS: list[tuple[Order, bool, bool]] = [
    (order, deflate, planar)
    for order in ("<", ">")
    for deflate in (False, True)
    for planar in (False, True)
]


def close(found_HW: NDArray[np.uint8], wanted_HW: NDArray[Any]) -> bool:
    return int(np.abs(found_HW.astype(int) - wanted_HW).max()) <= 1


@pytest.mark.parametrize(("order", "deflate", "planar"), LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float32"])
def test_decode__white_is_zero_looks_as_black_is_zero(
    dtype: str, order: Order, deflate: bool, planar: bool
) -> None:
    scale = {"uint8": 8, "int16": 1}.get(dtype, 0)
    values_HW = (DEEP_HW >> scale).astype(dtype)
    top = 65535 if dtype == "float32" else np.iinfo(dtype).max
    negative_HW = (top - values_HW.astype(np.float64)).astype(dtype)

    found = [
        pixels_of(
            tiff_of(v[..., None], order=order, deflate=deflate, planar=planar, photometric=p), 1
        )[..., 0]
        for p, v in ((1, values_HW), (0, negative_HW))
    ]

    wanted_HW = {"uint8": DEEP_HW >> 8, "int16": SHOWN_HW / 2}.get(dtype, SHOWN_HW)
    assert close(found[0], np.asarray(wanted_HW).astype(np.uint8))
    assert close(found[1], found[0])


@pytest.mark.parametrize("deflate", [False, True])
def test_decode__white_is_zero_fractions(deflate: bool) -> None:
    values_HW = RNG.random((6, 8)).astype(np.float32)
    values_HW[0, :2] = 0, 1
    data, negative = (
        tiff_of(v[..., None], photometric=p, deflate=deflate)
        for p, v in ((1, values_HW), (0, 1 - values_HW))
    )

    wanted_HW = np.rint(values_HW * 255).astype(np.uint8)
    assert close(pixels_of(data, 1, deep="stretch")[..., 0], wanted_HW)
    assert close(pixels_of(negative, 1, deep="stretch")[..., 0], wanted_HW)
    assert "from 0 to 1 do not use the 16-bit range" in reason(negative)


def test_decode__white_is_zero_and_not_finite() -> None:
    values_HW = np.array([[0, np.nan], [1, np.inf]], np.float32)

    assert "not numbers" in reason(tiff_of(values_HW[..., None], photometric=0))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_decode__white_is_zero_below_8_bits(bits: int) -> None:
    values_HW = RNG.integers(0, 1 << bits, (4, 8)).astype(np.uint8)
    flat = np.unpackbits(values_HW[..., None], axis=-1)[..., 8 - bits :].reshape(4, -1)
    tags = [(258, 3, [bits])]
    black, white = (
        pixels_of(
            tiff_of(values_HW[..., None], photometric=p, packed=packed.tobytes(), tags=tags), 1
        )
        for p, packed in ((1, np.packbits(flat, axis=1)), (0, ~np.packbits(flat, axis=1)))
    )

    assert np.array_equal(black[..., 0], values_HW * (255 // ((1 << bits) - 1)))
    assert np.array_equal(white, black)


def test_decode__12_bits_reach_white() -> None:
    values_HW = RNG.integers(0, 4096, (4, 8)).astype(np.uint16)
    values_HW[0, :2] = 0, 4095
    tags = [(258, 3, [12])]
    black, white = (
        pixels_of(tiff_of(v[..., None], photometric=p, packed=packed_12_bit(v), tags=tags), 1)[
            ..., 0
        ]
        for p, v in ((1, values_HW), (0, 4095 - values_HW))
    )

    assert close(black, np.rint(values_HW / 4095 * 255).astype(np.uint8))
    assert np.array_equal(white, black)


@pytest.mark.parametrize(("order", "deflate", "planar"), LAYOUTS)
def test_decode__16_bit_colour_is_its_high_bytes(order: Order, deflate: bool, planar: bool) -> None:
    values_HWC = RNG.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    data = tiff_of(values_HWC, order=order, deflate=deflate, planar=planar, photometric=2)

    assert np.array_equal(pixels_of(data), (values_HWC >> 8).astype(np.uint8))


@pytest.mark.parametrize(("order", "deflate", "planar"), LAYOUTS)
def test_decode__16_bit_alpha_is_laid_on_white(order: Order, deflate: bool, planar: bool) -> None:
    values_HWC = RNG.integers(0, 65536, (5, 7, 4)).astype(np.uint16)
    data = tiff_of(
        values_HWC,
        order=order,
        deflate=deflate,
        planar=planar,
        photometric=2,
        tags=[(338, 3, [2])],
    )

    eight_HWC = (values_HWC >> 8).astype(float)
    alpha_HW1 = eight_HWC[..., 3:] / 255
    assert close(pixels_of(data), (eight_HWC[..., :3] * alpha_HW1 + 255 * (1 - alpha_HW1)).round())


@pytest.mark.parametrize("predictor_format", ["I;16", "F"])
def test_decode__predictors(predictor_format: str) -> None:
    values_HW = DEEP_HW.astype(np.uint16 if predictor_format == "I;16" else np.float32)
    predictor = 2 if predictor_format == "I;16" else 3
    data = file_of(
        Image.fromarray(values_HW), "TIFF", compression="tiff_lzw", tiffinfo={317: predictor}
    )

    assert close(pixels_of(data, 1)[..., 0], SHOWN_HW)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(("order", "deflate", "planar"), LAYOUTS[::2])
def test_decode__deep_tiffs_are_turned_upright(
    orientation: int, photometric: int, order: Order, deflate: bool, planar: bool
) -> None:
    stored_HW = [
        DEEP_HW,
        DEEP_HW[:, ::-1],
        DEEP_HW[::-1, ::-1],
        DEEP_HW[::-1],
        DEEP_HW.T,
        np.rot90(DEEP_HW, 1),
        DEEP_HW[::-1, ::-1].T,
        np.rot90(DEEP_HW, -1),
    ][orientation - 1]
    values_HW = stored_HW if photometric else 65535 - stored_HW
    data = tiff_of(
        np.ascontiguousarray(values_HW)[..., None],
        order=order,
        deflate=deflate,
        planar=planar,
        photometric=photometric,
        tags=[(274, 3, [orientation])],
    )

    assert np.array_equal(pixels_of(data, 1)[..., 0], SHOWN_HW)
    assert upright_size(data) == (8, 6)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("sample_format", [[4], [4, 4, 4]])
def test_decode__undefined_samples_are_unsigned(sample_format: list[int], deflate: bool) -> None:
    photometric = 1 if len(sample_format) == 1 else 2
    values_HWC = RNG.integers(0, 256, (5, 6, len(sample_format))).astype(np.uint8)
    data = tiff_of(
        values_HWC, photometric=photometric, deflate=deflate, tags=[(339, 3, sample_format)]
    )

    assert np.array_equal(pixels_of(data, len(sample_format)), values_HWC)


# PNG, PNM, JPEG 2000


def png_of(values_HWC: NDArray[np.uint16], colour: int) -> bytes:
    """A 16-bit PNG: 0 grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""
    height, width, _ = values_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, colour, 0, 0, 0])
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_decode__16_bit_png_key_is_transparent() -> None:
    values_HWC = np.array([[[700], [701]], [[65535], [0]]], np.uint16)
    data = with_chunks(png_of(values_HWC, 0), chunk(b"tRNS", (700).to_bytes(2, "big")))

    assert pixels_of(data, 1)[..., 0].tolist() == [[255, 3], [255, 0]]
    assert pixels_of(data, 1, deep="stretch")[..., 0].tolist() == [[255, 3], [255, 0]]


def test_decode__16_bit_png_of_transparent_pixels_alone() -> None:
    data = with_chunks(
        png_of(np.full((2, 2, 1), 7, np.uint16), 0), chunk(b"tRNS", (7).to_bytes(2, "big"))
    )

    assert (pixels_of(data, deep="stretch") == 255).all()


def test_decode__16_bit_colour_key_is_compared_in_full() -> None:
    key, other = [0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD]
    alike = [0x3400, 0x7800, 0xBC00]  # in its high bytes as the key in its low ones
    values_HWC = np.array([[key, other, alike]], np.uint16)
    data = with_chunks(png_of(values_HWC, 2), chunk(b"tRNS", np.array(key, ">u2").tobytes()))

    assert pixels_of(data)[0].tolist() == [[255] * 3, [0x12, 0x56, 0x9A], [0x34, 0x78, 0xBC]]


@pytest.mark.parametrize("bits", [2, 4])
def test_decode__key_of_few_bits(bits: int) -> None:
    top = (1 << bits) - 1
    row = sum(value << 8 - bits * (place + 1) for place, value in enumerate((1, top)))
    header = (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    parts = [
        chunk(b"IHDR", header),
        chunk(b"tRNS", b"\0\1"),
        chunk(b"IDAT", zlib.compress(bytes([0, row]))),
        chunk(b"IEND", b""),
    ]

    assert pixels_of(b"\x89PNG\r\n\x1a\n" + b"".join(parts), 1)[0, :, 0].tolist() == [255, 255]


@pytest.mark.parametrize("colour", [4, 6])
def test_decode__16_bit_png_alpha_is_laid_on_white(colour: int) -> None:
    samples = {4: 2, 6: 4}[colour]
    values_HWC = np.full((1, 2, samples), 0x2000, np.uint16)
    values_HWC[0, :, -1] = 0, 65535

    assert pixels_of(png_of(values_HWC, colour))[0].tolist() == [[255] * 3, [0x20] * 3]


def test_decode__16_bit_png_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(Image.fromarray(np.rot90(DEEP_HW, 1).copy()), exif=exif)

    assert np.array_equal(pixels_of(data, 1)[..., 0], SHOWN_HW)
    assert upright_size(data) == (8, 6)


def test_decode__pgm_of_12_bits_reaches_white() -> None:
    data = b"P5\n2 1\n4095\n" + np.array([[0, 4095]], ">u2").tobytes()

    assert pixels_of(data, 1)[..., 0].tolist() == [[0, 255]]
    assert pixels_of(b"P2\n2 1\n4095\n0 4095\n", 1)[..., 0].tolist() == [[0, 255]]


def test_decode__ppm_of_16_bits() -> None:
    data = b"P6\n1 1\n65535\n" + np.array([0, 32768, 65535], ">u2").tobytes()

    assert pixels_of(data)[0, 0].tolist() == [0, 128, 255]


def test_decode__pfm() -> None:
    data = file_of(Image.fromarray(np.array([[0, 25700], [65535, 0]], np.float32)), "PPM")

    assert data.startswith(b"Pf")
    assert pixels_of(data, 1)[..., 0].tolist() == [[0, 100], [255, 0]]


def test_decode__16_bit_jpeg_2000() -> None:
    data = file_of(Image.fromarray(DEEP_HW.repeat(8, 0).repeat(8, 1)), "JPEG2000")

    assert close(pixels_of(data, 1)[::8, ::8, 0], SHOWN_HW)


# 8 bits: as Pillow reads them


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 80}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "RGB", {"compression": "jpeg"}),
        ("TIFF", "RGB", {"big_tiff": True}),
        ("TIFF", "L", {"compression": "packbits"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "P", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "LAB", {}),
        ("TIFF", "YCbCr", {}),
        ("WEBP", "RGB", {"quality": 80}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("PPM", "RGB", {}),
        ("PPM", "1", {}),
        ("JPEG2000", "RGB", {}),
        ("AVIF", "RGB", {}),
    ],
)
def test_decode__8_bits_are_what_pillow_gives(
    format: str, mode: str, options: dict[str, object]
) -> None:
    noise_HWC = RNG.integers(0, 256, (8, 10, 3), np.uint8)
    image = Image.fromarray(noise_HWC).resize((80, 64), Image.Resampling.BICUBIC)
    if mode == "LAB":
        image = Image.frombytes("LAB", image.size, image.tobytes())
    data = file_of(image.convert(mode), format, **options)

    wanted_HWC = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode(data, channels=3, shorter_side=None).pixels_HWC, wanted_HWC)
