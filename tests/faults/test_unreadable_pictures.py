"""Every refusal of a file tells the truth: what it is, by its content, and what to do."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deepcluster_core.artifacts.file_names import SKIPPED
from deepcluster_core.context import Context
from deepcluster_core.data.decode import UnreadableImageError, decode, upright_size
from deepcluster_core.data.unreadable import Reasons
from deepcluster_core.errors import SourceError
from stages.index import DatasetConfig, index
from tests.support.pictures import file_of, gradient, pixels_of, reason
from tests.support.png_chunks import chunk
from tests.support.tiffs import tiff_of

IMAGE = Image.fromarray(gradient(24, 40))
JPEG = file_of(IMAGE, "JPEG")
PNG = file_of(IMAGE)
NOISE = np.random.default_rng(0).integers(0, 256, 600, np.uint8).tobytes()


def media(brand: bytes, *others: bytes, after: bytes = b"") -> bytes:
    """The start of a file of the family of MP4."""
    brands = brand + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + after + bytes(200)


def padded(place: int, start: bytes) -> bytes:
    return NOISE[:place].replace(b"\0", b"\1") + start + NOISE


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", JPEG)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    return file.getvalue()


def tga(footer: bytes = b"") -> bytes:
    return struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 4, 4, 24, 0) + bytes(48) + footer


UNSUPPORTED = {
    "HEIC": media(b"heic", b"mif1", b"heic"),
    "HEIC of two pictures": media(b"heix", b"mif1"),
    "HEIC under its general brand": media(b"mif1", b"heic", b"mif1"),
    "HEIC by its codec": media(b"mif1", b"miaf", after=b"....hvc1...."),
    "HEIC cut off": b"\0\0\0\x18ftypheic",
    "JPEG XL": b"\xff\x0a" + NOISE,
    "JPEG XL in boxes": b"\0\0\0\x0cJXL \r\n\x87\n" + NOISE,
    "JPEG XR": b"II\xbc\1" + NOISE,
    "Canon CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + struct.pack("<HI", 0, 0),
    "Canon CR3": media(b"crx ", b"crx ", b"isom"),
    "Fujifilm RAF": b"FUJIFILMCCD-RAW 0201" + NOISE,
    "Olympus ORF": b"IIRO\x08\0\0\0" + NOISE,
    "Panasonic RW2": b"IIU\0\x18\0\0\0" + NOISE,
    "PSD": b"8BPS\0\1" + NOISE,
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + NOISE,
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "SVG with a declaration": b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>",
    "ICO": file_of(IMAGE, "ICO"),
    "CUR": b"\0\0\2\0\1\0" + NOISE,
    "TGA": tga(),
    "TGA by its end": tga(bytes(8) + b"TRUEVISION-XFILE.\0"),
    "TGA by Pillow": file_of(IMAGE, "TGA"),
    "DDS": file_of(IMAGE, "DDS"),
    "ICNS": b"icns" + NOISE,
    "WMF": b"\xd7\xcd\xc6\x9a" + NOISE,
    "EMF": padded(40, b" EMF"),
    "DICOM": bytes(128) + b"DICM" + NOISE,
    "NIfTI": b"\x5c\1\0\0" + padded(340, b"n+1\0"),
    "HDF5": b"\x89HDF\r\n\x1a\n" + NOISE,
    "OpenEXR": b"v/1\1\2\0\0\0" + NOISE,
    "Radiance HDR": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n" + NOISE,
    "FITS": b"SIMPLE  =                    T" + b" " * 50,
    "XCF": b"gimp xcf v011\0" + NOISE,
    "QOI": b"qoif" + NOISE,
    "MNG": b"\x8aMNG\r\n\x1a\n" + NOISE,
    "SGI": file_of(IMAGE, "SGI"),
    "PCX": file_of(IMAGE, "PCX"),
    "PAM": b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n\1\2\3",
    "PFM in colour": b"PF\n1 1\n-1.0\n" + bytes(12),
    "XBM": b"#define a_width 8\n#define a_height 1\nstatic char a_bits[] = {0};",
}
"""What is asked of the words is the first word of the name, and that they say what to do."""

WORDS = {
    "Canon CR2": "camera raw (Canon CR2)",
    "Canon CR3": "camera raw (Canon CR3)",
    "Fujifilm RAF": "camera raw (Fujifilm RAF)",
    "Olympus ORF": "camera raw (Olympus ORF)",
    "Panasonic RW2": "camera raw (Panasonic RW2)",
    "EMF": "Windows metafile (EMF)",
    "WMF": "Windows metafile (WMF)",
    "PSD": "Photoshop (PSD)",
    "EPS": "PostScript (EPS)",
    "EPS with a preview": "PostScript (EPS)",
    "ICO": "Windows icon (ICO)",
    "CUR": "Windows cursor (CUR)",
    "ICNS": "macOS icon (ICNS)",
    "XCF": "GIMP (XCF)",
    "JPEG XL": "JPEG XL is",
    "JPEG XL in boxes": "JPEG XL is",
    "JPEG XR": "JPEG XR is",
}


@pytest.mark.usefixtures("without_extras")
@pytest.mark.parametrize(("name", "data"), UNSUPPORTED.items(), ids=list(UNSUPPORTED))
def test_decode__unsupported_formats_are_named(name: str, data: bytes) -> None:
    text = reason(data)

    assert text.startswith(WORDS.get(name, name.split(maxsplit=1)[0]))
    assert "is not supported: " in text or "pip install 'deepcluster-pipeline[" in text
    assert not text.startswith("not an image")
    assert "\n" not in text
    with pytest.raises(UnreadableImageError, match=r"not supported|needs the package"):
        upright_size(data)


NOT_PICTURES = {
    "web page": (b"<!DOCTYPE html><html>404", "a web page (HTML)"),
    "web page behind blanks": (b"\xef\xbb\xbf\r\n  <HTML><body>", "a web page (HTML)"),
    "XHTML": (b"<?xml version='1.0'?><!DOCTYPE html><html/>", "a web page (HTML)"),
    "error of a store": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "XML text"),
    "JSON": (json.dumps({"error": "not found"}).encode(), "JSON text"),
    "answer of a server": (b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n", "its headers"),
    "pointer of LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
    "pointer of annex": (b"/annex/objects/SHA256E-s1--0.jpg\n", "git annex get"),
    "text": (b"a note on the pictures, nothing else", "text"),
    "text of UTF-16": ("a note on the pictures".encode("utf-16"), "text"),
    "text that begins as a bitmap": (b"BMW and other makers of cars are listed here", "text"),
    "text that begins as a graymap": (b"Python is needed to read this. P5 is a variable", "text"),
    "text that begins as a pixmap": (b"P6 is the name of a processor", "text"),
    "text that begins as a program": (b"MZ, the initials of a person", "text"),
    "zero bytes alone": (bytes(5000), "only zero bytes"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + NOISE, "AppleDouble"),
    "placeholder of iCloud": (b"bplist00" + NOISE, "iCloud"),
    "alias": (b"book\0\0\0\0mark\0\0\0\0" + NOISE, "macOS alias"),
    "shortcut": (b"L\0\0\0\1\x14\2\0\0\0" + NOISE, "Windows shortcut"),
    "Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, "Thumbs.db"),
    "ZIP": (zipped(), "a ZIP archive: unpack it"),
    "gzip": (gzip.compress(JPEG), "compressed by gzip: unpack it"),
    "tar": (tarred(), "a tar archive"),
    "Parquet": (b"PAR1" + NOISE, "a Parquet file"),
    "MP4": (media(b"isom", b"mp42"), "a video (MP4"),
    "MOV": (media(b"qt  "), "a video (QuickTime)"),
    "old MOV": (b"\0\0\1\0moov" + NOISE, "a video (QuickTime)"),
    "AVI": (b"RIFF\0\1\0\0AVI LIST" + NOISE, "a video (AVI)"),
    "WAV": (b"RIFF\0\1\0\0WAVEfmt " + NOISE, "a sound file"),
    "WebM": (b"\x1a\x45\xdf\xa3" + NOISE, "a video (WebM or Matroska)"),
    "PNG sent as text": (PNG.replace(b"\r\n", b"\n"), "a transfer in text mode"),
    "other bytes": (b"\x91\x92" + NOISE[:100].replace(b"\xff", b"\1"), "starts with b'\\x91\\x92"),
    "JPEG behind other bytes": (b"\x91\x92\x93" + JPEG, "a JPEG begins at byte 3"),
    "PNG behind other bytes": (b"\x91\x92\x93" + PNG, "a PNG begins at byte 3"),
}


@pytest.mark.parametrize(("data", "words"), NOT_PICTURES.values(), ids=list(NOT_PICTURES))
def test_decode__what_is_no_picture_is_named(data: bytes, words: str) -> None:
    text = reason(data)

    assert words in text
    assert "damaged or truncated" not in text
    assert text.startswith(("not an image", "only zero bytes"))


@pytest.mark.parametrize("length", range(1, 20))
def test_decode__few_bytes_are_refused_in_words(length: int) -> None:
    starts = [JPEG, PNG, b"P5\n1 1\n255\n", b"BM", b"\n" * 20, *UNSUPPORTED.values()]
    for start in starts:
        assert reason(start[:length])


# Features that Pillow lacks


def with_frame(marker: int, *, bits: int = 8, layers: int = 3) -> bytes:
    at = JPEG.index(b"\xff\xc0")
    return (
        JPEG[:at]
        + bytes([255, marker])
        + JPEG[at + 2 : at + 4]
        + bytes([bits])
        + (JPEG[at + 5 : at + 9] + bytes([layers]) + JPEG[at + 10 :])
    )


def with_compression(number: int) -> bytes:
    return tiff_of(gradient(6, 5), photometric=2, tags=[(259, 3, [number])])


def bands(samples: int, dtype: str, *, photometric: int = 1, planar: bool = False) -> bytes:
    colours = {1: 1, 2: 3}[photometric]
    extra = [(338, 3, [0] * (samples - colours))] if samples > colours else []
    values_HWC = np.zeros((4, 6, samples), dtype)
    return tiff_of(values_HWC, photometric=photometric, planar=planar, tags=extra)


def bmp_with(at: int, value: int) -> bytes:
    data = bytearray(file_of(IMAGE, "BMP"))
    data[at : at + 4] = struct.pack("<I", value)
    return bytes(data)


LACKING = {
    "JPEG of 12 bits": (with_frame(0xC1, bits=12), "JPEG of 12 bits is not supported"),
    "JPEG of 2 channels": (with_frame(0xC0, layers=2), "JPEG of 2 channels is not supported"),
    "hierarchical JPEG": (with_frame(0xC5), "JPEG (hierarchical) is not supported"),
    "JPEG-LS": (with_frame(0xF7), "JPEG (JPEG-LS) is not supported"),
    "TIFF in JPEG 2000": (
        with_compression(34712),
        "compression 34712 (JPEG 2000) needs the package",
    ),
    "TIFF in LERC": (with_compression(34887), "compression 34887 (LERC) needs the package"),
    "TIFF in JPEG XL": (with_compression(50002), "compression 50002 (JPEG XL) is not supported"),
    "TIFF in something": (with_compression(40_000), "TIFF with compression 40000 is not supported"),
    "5 bands": (bands(5, "uint16"), "TIFF of 5 channels, not 3: dataset.channels: 5 reads it"),
    "5 bands, separate": (bands(5, "uint8", planar=True), "TIFF of 5 channels, not 3"),
    "4 bands of CMYK, separate": (
        tiff_of(np.zeros((4, 6, 4), "uint16"), photometric=5, planar=True),
        "TIFF of 4 bands of 16 bits with colour space CMYK is not supported",
    ),
    "12 bands": (bands(12, "uint8"), "TIFF of 12 channels, not 3"),
    "complex numbers": (
        tiff_of(
            np.zeros((4, 6, 2), "float32"), tags=[(339, 3, [6]), (258, 3, [64]), (277, 3, [1])]
        ),
        "TIFF of numbers of this type is not supported",
    ),
    "raw of a camera": (
        tiff_of(np.zeros((4, 6, 1), "uint16"), photometric=32803),
        "camera raw (TIFF-based) is not supported: convert it to JPEG",
    ),
    "DNG with a preview in front": (
        tiff_of(
            gradient(6, 5),
            photometric=2,
            tags=[(254, 4, [1]), (330, 4, [8]), (50706, 1, [1, 4, 0, 0])],
        ),
        "camera raw (DNG) is not supported",
    ),
    "NEF with a preview in front": (
        tiff_of(
            gradient(6, 5),
            photometric=2,
            tags=[(254, 4, [1]), (271, 2, list(b"NIKON CORPORATION\0")), (330, 4, [8])],
        ),
        "camera raw (Nikon NEF) is not supported",
    ),
    "BMP with a PNG inside": (bmp_with(30, 5), "BMP with PNG inside is not supported"),
    "BMP of CMYK": (bmp_with(30, 11), "BMP with CMYK is not supported"),
    "PNG of an iPhone": (
        PNG[:8] + chunk(b"CgBI", b"P\0 \6") + PNG[8:33] + chunk(b"IDAT", b"x" * 50) + PNG[-12:],
        "PNG in Apple's own variant (CgBI) is not supported",
    ),
}


@pytest.mark.parametrize(("data", "words"), LACKING.values(), ids=list(LACKING))
def test_decode__unsupported_is_never_called_damaged(data: bytes, words: str) -> None:
    text = reason(data)

    assert words in text
    assert "damaged" not in text


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_decode__truncated_is_not_called_unsupported(kept: float) -> None:
    values_HWC = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    for options in ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}):
        whole = file_of(Image.fromarray(values_HWC), "TIFF", **options)
        assert "truncated" in reason(whole[: int(len(whole) * kept)])
    assert "truncated" in reason(JPEG[: int(len(JPEG) * kept)])


def test_decode__wrong_critical_parts_are_damage() -> None:
    colour = bytearray(PNG)
    colour[25] = 7
    colour[29:33] = struct.pack(">I", zlib.crc32(colour[12:29]))
    for data in (bytes(colour), PNG[:8] + PNG[33:], PNG[:33] + chunk(b"IDAT", b"??") + PNG[-12:]):
        assert "damaged or truncated PNG" in reason(data)


# What looks odd and is read


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "AVIF"])
def test_decode__content_counts_not_size_or_name(format: str) -> None:
    data = file_of(IMAGE.convert("P") if format == "GIF" else IMAGE, format)

    assert decode(data + b"\r\ntrailing", channels=3, shorter_side=None).format == format


def test_decode__first_page_of_many() -> None:
    first, second = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    for format in ("TIFF", "GIF", "PNG", "MPO", "WEBP", "AVIF"):
        data = file_of(first, format, save_all=True, append_images=[second])
        assert np.abs(pixels_of(data)[4, 4].astype(int) - [255, 0, 0]).max() < 4, format


def test_decode__avif_under_its_general_brand() -> None:
    data = file_of(IMAGE, "AVIF", quality=95)
    general = data.replace(b"ftypavif", b"ftypmif1", 1)

    assert np.array_equal(pixels_of(general), pixels_of(data))


def test_decode__big_tiff() -> None:
    data = file_of(IMAGE, "TIFF", big_tiff=True)

    assert data[2] == 43
    assert np.array_equal(pixels_of(data), gradient(24, 40))


# What the run says


@pytest.fixture
def all_heic(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(9):
        (folder / f"IMG_{number:04}.HEIC").write_bytes(UNSUPPORTED["HEIC"])
    return folder


def indexed(source: Path, out: Path, **options: float) -> None:
    dataset = DatasetConfig(source=source, shorter_side=16, **options)  # pyright: ignore[reportArgumentType]
    index.run(dataset=dataset, source="any", out=out, context=Context(seed=0))


@pytest.mark.usefixtures("without_extras")
def test_index__nothing_but_heic(all_heic: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        indexed(all_heic, tmp_path / "out")

    text = str(error.value)
    assert "9 of 9 images cannot be read" in text
    assert "\n  9 of them: HEIC needs the package pillow-heif: pip install 'deepcluster-pip" in text
    assert text.endswith("Fix: convert, repair or remove them.")


@pytest.mark.usefixtures("without_extras")
def test_index__skipped_pictures_are_named_for_what_they_are(
    all_heic: Path, tmp_path: Path
) -> None:
    (all_heic / "a.jpg").write_bytes(UNSUPPORTED["HEIC"])
    (all_heic / "b.heic").write_bytes(JPEG)
    (all_heic / "c.jpg").write_bytes(NOT_PICTURES["web page"][0])

    indexed(all_heic, tmp_path / "out", max_skipped_fraction=0.99)

    skipped = pd.read_parquet(tmp_path / "out" / SKIPPED).set_index("path").reason
    assert skipped.str.contains("HEIC needs the package pillow-heif").sum() == 10
    assert skipped["c.jpg"].startswith("not an image but a web page (HTML)")
    assert "b.heic" not in skipped.index


def test_reasons__shared_by_few_are_not_repeated() -> None:
    reasons = Reasons()
    for number in range(12):
        reasons.add("one\nand the same" if number < 7 else f"another {number}")

    assert reasons.most_common() == "\n  7 of them: one and the same"
