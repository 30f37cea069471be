"""Notes that nobody reads never refuse a picture; they are whatever is not pixels."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from deepcluster_core.data.bare_pictures import without_notes
from deepcluster_core.data.decode import decode, upright_size
from deepcluster_core.evaluation.voc.masks import decode_mask
from tests.support.pictures import file_of, gradient, pixels_of, reason
from tests.support.png_chunks import chunk, with_chunks
from tests.support.tiffs import tiff_of

IMAGE = Image.fromarray(gradient(24, 40))
PNG = file_of(IMAGE)
JPEG = file_of(IMAGE, "JPEG", quality=95)
SIDEWAYS = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 274, 3, 1, 6, 0, 0)
"""An EXIF block: turn by 90 degrees."""
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def is_turned(data: bytes, plain: bytes) -> bool:
    turned = np.array_equal(pixels_of(data), np.rot90(pixels_of(plain), -1))
    return turned and upright_size(data) == (24, 40)


def is_same(data: bytes, plain: bytes) -> bool:
    return np.array_equal(pixels_of(data), pixels_of(plain)) and upright_size(data) == (40, 24)


# PNG


def bad_sum(part: bytes) -> bytes:
    return part[:-1] + bytes([part[-1] ^ 255])


LONG = zlib.compress(b"x" * (2 << 20))
NOTES: dict[str, list[bytes]] = {
    "zTXt over 1 MiB": [chunk(b"zTXt", b"workflow\0\0" + LONG)],
    "iTXt over 1 MiB": [chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG)],
    "XMP over 1 MiB": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG)],
    "iCCP over 1 MiB": [chunk(b"iCCP", b"profile\0\0" + LONG)],
    "iCCP of another compression": [chunk(b"iCCP", b"profile\0\7abc")],
    "iCCP cut off": [chunk(b"iCCP", b"profile")],
    "zTXt of another compression": [chunk(b"zTXt", b"Comment\0\7abc")],
    "zTXt that is none": [chunk(b"zTXt", b"Comment\0\0not zlib")],
    "text of 72 MB in all": [chunk(b"tEXt", b"k%d\0" % n + b"x" * 900_000) for n in range(80)],
    "checksum of a note": [bad_sum(chunk(b"tEXt", b"Comment\0hello"))],
    "checksum of a colour space": [bad_sum(chunk(b"gAMA", b"\0\0\xb1\x8f"))],
    "checksum of an unknown note": [bad_sum(chunk(b"prVt", b"hello"))],
    "checksum of EXIF": [bad_sum(chunk(b"eXIf", b"II*\0broken"))],
    "short gAMA": [chunk(b"gAMA", b"")],
    "short cHRM": [chunk(b"cHRM", b"ab")],
    "short sRGB": [chunk(b"sRGB", b"")],
    "short pHYs": [chunk(b"pHYs", b"1")],
    "broken EXIF": [chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")],
    "broken animation": [chunk(b"acTL", b"\0"), chunk(b"fcTL", b"\0" * 5)],
    "frames out of order": [
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 7, 40, 24, 0, 0, 1, 1, 0, 0)),
    ],
}


@pytest.mark.parametrize("notes", NOTES.values(), ids=list(NOTES))
def test_decode__png_notes_never_refuse(notes: list[bytes]) -> None:
    assert is_same(with_chunks(PNG, *notes), PNG)
    behind = PNG[:-12] + b"".join(notes) + PNG[-12:]
    assert is_same(behind, PNG)


@pytest.mark.parametrize("note", [part for parts in NOTES.values() for part in parts][:4])
def test_decode__png_that_ends_inside_a_note(note: bytes) -> None:
    assert is_same(PNG[:-12] + note[: len(note) // 2], PNG)
    assert "truncated" in reason(PNG[:33] + note[: len(note) // 2])


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_decode__png_stays_transparent_without_its_notes(kind: bytes) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((2, 1), 0)
    data = with_chunks(file_of(image, transparency=0), chunk(kind, b"long\0\0" + LONG))

    assert pixels_of(data)[1, 2].tolist() == [255] * 3
    assert pixels_of(data)[0, 0].tolist() == [255, 0, 0]


RAW_EXIF = b"\nexif\n%8d\n" % (len(SIDEWAYS) + 6) + (b"Exif\0\0" + SIDEWAYS).hex().encode() + b"\n"


@pytest.mark.parametrize(
    "note",
    [
        chunk(b"eXIf", SIDEWAYS),
        chunk(b"tEXt", b"Raw profile type exif\0" + RAW_EXIF),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_EXIF)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP + b" " * (2 << 20))),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_decode__png_is_turned_also_without_its_notes(note: bytes, behind: bool) -> None:
    long = chunk(b"zTXt", b"workflow\0\0" + LONG)
    data = with_chunks(PNG, long) if behind else with_chunks(PNG, long, note)
    data = data[:-12] + note + data[-12:] if behind else data

    assert is_turned(data, PNG)


@pytest.mark.parametrize("kind", [b"IDAT", b"tRNS", b"PLTE"])
def test_decode__damage_of_what_is_read_still_refuses(kind: bytes) -> None:
    long = chunk(b"zTXt", b"workflow\0\0" + LONG)
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    whole = file_of(image, transparency=0)
    at = whole.index(kind) + 4
    broken = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]

    for data in (broken, with_chunks(broken, long)):
        assert "damaged or truncated PNG" in reason(data)


def test_decode__png_of_a_million_notes() -> None:
    notes = chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(b"x" * (1 << 20)))
    assert is_same(with_chunks(PNG, chunk(b"iCCP", b"p\0\0" + LONG), notes * 2000), PNG)
    assert len(without_notes(with_chunks(PNG, chunk(b"prVt", b"") * 200_000))) <= len(PNG)


def test_decode__limits_of_pillow_stay() -> None:
    from PIL import ImageFile, PngImagePlugin  # noqa: PLC0415

    before = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, Image.MAX_IMAGE_PIXELS)
    pixels_of(with_chunks(PNG, NOTES["zTXt over 1 MiB"][0]))

    after = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, Image.MAX_IMAGE_PIXELS)
    assert after == before
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_decode__bomb_with_long_notes_stays_refused() -> None:
    large = bytearray(PNG)
    large[16:24] = struct.pack(">II", 50_000, 50_000)
    large[29:33] = struct.pack(">I", zlib.crc32(large[12:29]))

    data = with_chunks(bytes(large), chunk(b"zTXt", b"workflow\0\0" + LONG))
    assert "over the limit of 178956970 pixels" in reason(data)


def test_decode_mask__notes_never_refuse() -> None:
    numbers = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    plain = file_of(numbers)
    for parts in NOTES.values():
        found = decode_mask(with_chunks(plain, *parts), num_classes=21, size=(4, 3))
        assert np.array_equal(found, np.asarray(numbers))


# JPEG


def segment(marker: int, body: bytes) -> bytes:
    return bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body


STARTS = [
    b"",
    b"JFIF\0",
    b"Adobe",
    b"Exif\0\0",
    b"Exif\0\0MM\0*\xff\xff\xff\xff",
    b"ICC_PROFILE\0",
    b"MPF\0",
    b"MPF\0II*\0\x08\0\0\0\xff\xff",
    b"Photoshop 3.0\x008BIM",
    b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\1a",
    b"http://ns.adobe.com/xap/1.0/\0<" + b"x" * 60_000,
    b"FPXR\0",
]


@pytest.mark.parametrize("start", STARTS)
def test_decode__jpeg_segments_never_refuse(start: bytes) -> None:
    for marker in (*range(0xE0, 0xF0), 0xFE):
        data = JPEG[:2] + segment(marker, start) + JPEG[2:]
        assert is_same(data, JPEG), hex(marker)


def test_decode__jpeg_with_a_profile_of_many_segments() -> None:
    parts = [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([n % 256, 255]) + bytes(65_000)) for n in range(300)
    ]

    assert is_same(JPEG[:2] + b"".join(parts) + JPEG[2:], JPEG)


@pytest.mark.parametrize(
    "note",
    [
        segment(0xE1, b"Exif\0\0" + SIDEWAYS),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
    ],
)
def test_decode__jpeg_is_turned_also_without_its_notes(note: bytes) -> None:
    broken = segment(0xE2, b"ICC_PROFILE\0")

    assert is_turned(JPEG[:2] + broken + note + JPEG[2:], JPEG)


def test_decode__cmyk_jpeg_keeps_its_colours_without_its_notes() -> None:
    plain = file_of(IMAGE.convert("CMYK"), "JPEG")

    assert is_same(plain[:2] + segment(0xE2, b"ICC_PROFILE\0") + plain[2:], plain)


# WebP, TIFF, GIF, JPEG 2000, AVIF


@pytest.fixture(scope="module")
def webp() -> bytes:
    return file_of(IMAGE, "WEBP", lossless=True, exif=b"Exif\0\0" + SIDEWAYS, xmp=b"<x/>")


@pytest.mark.parametrize("length", [0, 3, 1 << 20, 0xFFFFFFFF])
@pytest.mark.parametrize("note", [b"EXIF", b"XMP "])
def test_decode__webp_notes_never_refuse(webp: bytes, note: bytes, length: int) -> None:
    at = webp.index(note) + 4
    data = webp[:at] + struct.pack("<I", length) + webp[at + 4 :]

    assert pixels_of(data).shape in ((24, 40, 3), (40, 24, 3))


def test_decode__webp_that_ends_inside_a_note(webp: bytes) -> None:
    plain = file_of(IMAGE, "WEBP", lossless=True)

    assert is_turned(webp, plain)
    assert is_turned(webp[:-3], plain)
    assert "truncated" in reason(webp[: webp.index(b"EXIF") - 30])


TAGS = (270, 282, 296, 305, 306, 330, 700, 33723, 34377, 34665, 34675, 34853, 50838)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("tag", TAGS)
def test_decode__tiff_tags_never_refuse(tag: int, deflate: bool) -> None:
    pixels_HWC = gradient(6, 5)
    values = [7] * 500
    plain = tiff_of(pixels_HWC, photometric=2, deflate=deflate, tags=[(tag, 3, values)])
    at = plain.index(struct.pack("<HHI", tag, 3, len(values)))
    broken = [
        plain[: at + 8] + struct.pack("<I", offset) + plain[at + 12 :]
        for offset in (0, len(plain) - 3, 0xFFFFFFF0)
    ]
    broken += [
        plain[: at + 2] + struct.pack("<HI", kind, count) + plain[at + 8 :]
        for kind, count in ((99, 5), (2, 0xFFFFFFFF), (5, 3), (12, 1 << 30), (5, 0), (2, 0))
    ]

    for data in (plain, *broken):
        assert np.array_equal(pixels_of(data), pixels_HWC)


def test_decode__tiff_is_turned_also_without_its_other_tags() -> None:
    tags = [(270, 3, [7] * 500), (274, 3, [6])]
    data = tiff_of(gradient(24, 40), photometric=2, tags=tags)
    at = data.index(struct.pack("<HHI", 270, 3, 500)) + 8

    assert is_turned(data[:at] + b"\xff" * 4 + data[at + 4 :], PNG)


def test_decode__gif_with_long_comments() -> None:
    plain = file_of(IMAGE.convert("P"), "GIF")
    at = 13 + (3 << (plain[10] & 7) + 1)
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 9000 + b"\0"
    for note in (comment, b"!\xff\x0bXMP DataXMP" + comment[2:], b"!\xfe\0", b"!\xff\x02ab\0"):
        assert is_same(plain[:at] + note + plain[at:], plain)


def test_decode__jpeg_2000_boxes_never_refuse() -> None:
    plain = file_of(IMAGE, "JPEG2000")
    header = plain.index(b"jp2h") - 4
    size = int.from_bytes(plain[header : header + 4], "big")
    broken = struct.pack(">I", 26) + b"res " + struct.pack(">I", 99) + b"resc" + b"ab" * 5
    longer = struct.pack(">I", size + len(broken)) + plain[header + 4 : header + size] + broken
    notes: list[Callable[[], bytes]] = [
        lambda: plain[:header] + longer + plain[header + size :],
        lambda: (
            plain[:header]
            + struct.pack(">I", 3 << 20)
            + b"uuid"
            + bytes((3 << 20) - 8)
            + plain[header:]
        ),
        lambda: (
            plain[: header + size] + struct.pack(">I", 12) + b"xml <x/>" + plain[header + size :]
        ),
        lambda: plain + b"\0\0\0\3uuid",
    ]
    for note in notes:
        assert is_same(note(), plain)


def test_decode__avif_notes_never_refuse() -> None:
    plain, exif = file_of(IMAGE, "AVIF", quality=90), Image.Exif()
    exif[0x010E] = "a description"
    data = file_of(IMAGE, "AVIF", quality=90, exif=exif.tobytes(), xmp=b"<x/>")
    at = max(data.rfind(b"II*\0"), data.rfind(b"MM\0*"))

    assert at > 0
    for broken in (b"\0\0\0\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"):
        assert is_same(data[:at] + broken + data[at + len(broken) :], plain)
    assert without_notes(data).count(b"skip") == 2, "EXIF and XMP"
    assert is_same(without_notes(data), plain)


# All of them


@pytest.mark.parametrize(
    "format", ["PNG", "JPEG", "WEBP", "TIFF", "JPEG2000", "AVIF", "GIF", "BMP"]
)
def test_without_notes__leaves_pixels_as_they_are(format: str) -> None:
    plain = file_of(IMAGE, format)
    bare = without_notes(plain)

    assert len(bare) <= len(plain)
    assert np.array_equal(pixels_of(bare), pixels_of(plain))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "JPEG2000", "AVIF"])
def test_without_notes__takes_any_damage(format: str) -> None:
    options = {} if format == "JPEG2000" else {"exif": b"Exif\0\0" + SIDEWAYS}
    data, rng = file_of(IMAGE, format, **options), np.random.default_rng(0)
    for _ in range(300):
        damaged = np.frombuffer(data[: rng.integers(2, len(data))], np.uint8).copy()
        at = rng.integers(0, min(len(damaged), 300), 4)
        damaged[at] = rng.integers(0, 256, 4)
        assert len(without_notes(damaged.tobytes())) <= len(data) + 200


@pytest.mark.parametrize("before", [b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b" \t\n"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_decode__blanks_in_front_are_passed_over(format: str, before: bytes) -> None:
    plain = file_of(IMAGE, format)

    assert is_same(before + plain, plain)
    assert decode(before + plain, channels=3, shorter_side=None).format == format
