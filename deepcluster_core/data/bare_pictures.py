"""Strip image files of all metadata: text, profiles, previews and dates, called notes here.

Codecs reject an image whose notes are damaged or exceed their limits, although we do not use the
notes. Such a file is rewritten in memory with only the parts that its pixels need and with its
orientation, the only note that matters. Each function visits every part once and copies it at most
once. Limits on the number of pixels are left to the decoder.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from deepcluster_core.data.tiff_pages import ORIENTATION, read_page, without_other_tags

MAX_NOTE = 1 << 20
"""Limit on the bytes of a compressed note that are decompressed to find the orientation."""

MAX_NOTES = 64
"""Limit on the compressed notes of a file that are read: each may expand a thousandfold."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_END = 33
_XMP_KEY, _RAW_EXIF_KEY = b"XML:com.adobe.xmp", b"Raw profile type exif"
_XMP_OF_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_PADDING = re.compile(rb"\xff+")
"""The bytes before the kind of a segment in a JPEG; there is at least one."""
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_WEBP_NOTES = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}
_WEBP_PIXELS = frozenset({b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"})
_JP2_PIXELS = frozenset({b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef"})


def without_notes(data: bytes) -> bytes:
    """Return an image file with its pixels and orientation only.

    The pixels do not change. Of several frames the first is kept. Files that are broken or of an
    unknown format are returned unchanged.
    """
    for start, at, bare in (
        (_PNG, 0, _bare_png),
        (b"\xff\xd8", 0, _bare_jpeg),
        (b"WEBP", 8, _bare_webp),
        (b"II", 0, without_other_tags),
        (b"MM", 0, without_other_tags),
        (_JP2, 0, _bare_jp2),
        (b"ftyp", 4, _bare_avif),
    ):
        if data.startswith(start, at):
            return bare(data)
    return data


# Orientation


def _of_exif(block: bytes) -> int:
    """Return the orientation in an EXIF block, 1 to 8, or 0 if it has none or is damaged."""
    page = read_page(block.removeprefix(b"Exif\0\0"))
    found = page.value(ORIENTATION, 0) if page else 0
    return found if 1 <= found <= 8 else 0


def _of_xmp(text: bytes) -> int:
    found = _XMP_ORIENTATION.search(text)
    return int(found[1]) if found else 0


def _exif(orientation: int) -> bytes:
    """Return an EXIF block, from its byte order on, with only an orientation."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, ORIENTATION, 3, 1, orientation, 0, 0)


# PNG


def _bare_png(data: bytes) -> bytes:
    """Keep the header, palette, transparency and pixels of a PNG.

    Frames of an animation are dropped, which leaves the image that programs show if they do not
    play animations.
    """
    view, bare, at, has_pixels = memoryview(data), bytearray(_PNG), len(_PNG), False
    hints, num_notes = [0, 0, 0], 0  # in order of trust: eXIf, EXIF as text, XMP
    while at + 8 <= len(data):
        length, kind = int.from_bytes(view[at : at + 4]), bytes(view[at + 4 : at + 8])
        end = at + 12 + length
        is_note = kind[0] & 32 > 0 and kind != b"tRNS"
        if not kind.isalpha() or (end > len(data) and not (is_note and has_pixels)):
            break  # leave the rest to the codec
        if not is_note:
            bare += view[at:end]
            has_pixels = has_pixels or kind == b"IDAT"
        elif num_notes < MAX_NOTES and _has_hint(kind, view[at + 8 : at + 40]):
            num_notes += 1
            _note_hint(data[at:end], hints)
        at = min(end, len(data))
    bare += view[at:]
    orientation = next((hint for hint in hints if hint), 0)
    if orientation and len(bare) >= _PNG_HEADER_END:
        bare[_PNG_HEADER_END:_PNG_HEADER_END] = _png_chunk(b"eXIf", _exif(orientation))
    return bytes(bare)


def _has_hint(kind: bytes, start: memoryview) -> bool:
    if kind == b"eXIf":
        return True
    keys = (_XMP_KEY + b"\0", _RAW_EXIF_KEY + b"\0")
    return kind in (b"tEXt", b"zTXt", b"iTXt") and bytes(start).startswith(keys)


def _note_hint(chunk: bytes, hints: list[int]) -> None:
    """Store the orientation of a note at its position in `hints`; ignore damaged notes."""
    kind, body = chunk[4:8], chunk[8:-4]
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
        return
    if kind == b"eXIf":
        hints[0] = hints[0] or _of_exif(body)
        return
    key, _, text = body.partition(b"\0")
    try:
        text = _plain_text(kind, text)
        if key == _XMP_KEY:
            hints[2] = hints[2] or _of_xmp(text)
        else:
            profile = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
            hints[1] = hints[1] or _of_exif(profile)
    except (ValueError, zlib.error):
        return


def _plain_text(kind: bytes, text: bytes) -> bytes:
    if kind == b"iTXt":
        is_packed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    else:
        is_packed = kind == b"zTXt"
        text = text[1:] if is_packed else text
    return zlib.decompressobj().decompress(text, MAX_NOTE) if is_packed else text


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    named = kind + body
    return struct.pack(">I", len(body)) + named + struct.pack(">I", zlib.crc32(named))


# JPEG


def _bare_jpeg(data: bytes) -> bytes:
    """Drop application segments and comments, except those that define the colour space."""
    bare, orientation, of_xmp = bytearray(b"\xff\xd8"), 0, 0
    scan = None
    for marker, at, end in jpeg_segments(data):
        if marker == 0xDA:
            scan = at
            break
        start = data[at + 4 : at + 40]
        if marker == 0xE1 and start.startswith(b"Exif\0\0"):
            orientation = orientation or _of_exif(data[at + 4 : end])
        elif marker == 0xE1 and start.startswith(_XMP_OF_JPEG):
            of_xmp = of_xmp or _of_xmp(data[at + 4 : end])
        if not _is_jpeg_note(marker, start, end - at):
            bare += data[at:end]
    if scan is None:
        return data
    if orientation := orientation or of_xmp:
        block = b"Exif\0\0" + _exif(orientation)
        bare += b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    return bytes(bare + memoryview(data)[scan:])


def _is_jpeg_note(marker: int, start: bytes, size: int) -> bool:
    if marker == 0xE0 and start.startswith(b"JFIF\0") and size >= 18:
        return False
    if marker == 0xEE and start.startswith(b"Adobe") and size >= 16:
        return False
    return 0xE0 <= marker <= 0xEF or marker == 0xFE


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each complete segment of a JPEG, up to the first scan."""
    at = 2
    while found := _PADDING.search(data, at):
        at = found.end() - 1
        if at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # these stand alone
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end < at + 4 or end > len(data):
            return
        yield marker, at, end
        if marker == 0xDA:
            return
        at = end


# WebP


def _bare_webp(data: bytes) -> bytes:
    view, bare, at, has_pixels = memoryview(data), bytearray(), 12, False
    hints = [0, 0]  # EXIF, XMP
    while at + 8 <= len(data):
        kind, length = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        if at + 8 + length > len(data) and (kind in _WEBP_PIXELS or not has_pixels):
            return data
        if kind in _WEBP_PIXELS:
            bare += view[at:end]
            has_pixels = has_pixels or kind in (b"VP8 ", b"VP8L", b"ANMF")
        elif kind == b"EXIF":
            hints[0] = hints[0] or _of_exif(data[at + 8 : at + 8 + length])
        elif kind == b"XMP ":
            hints[1] = hints[1] or _of_xmp(data[at + 8 : at + 8 + length])
        at = end
    if bare.startswith(b"VP8X") and len(bare) >= 18:
        bare[8] &= 0xFF ^ sum(_WEBP_NOTES.values())
        if orientation := hints[0] or hints[1]:
            bare[8] |= _WEBP_NOTES[b"EXIF"]
            block = _exif(orientation)
            bare += b"EXIF" + struct.pack("<I", len(block)) + block
    return b"RIFF" + struct.pack("<I", (4 + len(bare)) & 0xFFFFFFFF) + b"WEBP" + bare


# JPEG 2000 and AVIF: boxes in boxes


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield type, start, start of the content, and end of each box between two offsets."""
    while at + 8 <= end:
        length, body = int.from_bytes(data[at : at + 4]), at + 8
        if length == 1:
            length, body = int.from_bytes(data[at + 8 : at + 16]), at + 16
        stop = end if length == 0 else at + length
        if stop < body or stop > end:
            return
        yield data[at + 4 : at + 8], at, body, stop
        at = stop


def _bare_jp2(data: bytes) -> bytes:
    bare, has_pixels = bytearray(), False
    for kind, at, body, end in boxes(data, 0, len(data)):
        if kind == b"jp2h":
            kept = [
                data[a:e]
                for name, a, b, e in boxes(data, body, end)
                if name in _JP2_PIXELS and not (name == b"colr" and e - b < 7)
            ]
            size = 8 + sum(map(len, kept))
            bare += struct.pack(">I", size) + b"jp2h" + b"".join(kept)
        elif kind in (b"jP  ", b"ftyp", b"jp2c"):
            bare += memoryview(data)[at:end]
            has_pixels = has_pixels or kind == b"jp2c"
    return bytes(bare) if has_pixels else data


def _bare_avif(data: bytes) -> bytes:
    """Rename the items that are notes, so that the codec ignores them.

    The orientation of these files is stored in boxes of its own, not in the EXIF block.
    """
    bare = bytearray(data)
    for kind, _, body, end in boxes(data, 0, len(data)):
        if kind != b"meta":
            continue
        for name, _, start, stop in boxes(data, body + 4, end):
            if name != b"iinf":
                continue
            after_count = 6 if data[start : start + 1] == b"\0" else 8
            for entry, _, inner, _ in boxes(data, start + after_count, stop):
                at = inner + (8 if data[inner : inner + 1] == b"\2" else 10)
                if entry == b"infe" and data[at : at + 4] in (b"Exif", b"mime"):
                    bare[at : at + 4] = b"skip"
    return bytes(bare)
