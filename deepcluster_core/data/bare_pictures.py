"""Remove all metadata from image files: text, profiles, previews and dates, called notes here.

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


def _uint32(data: bytes | memoryview, at: int) -> int:
    """Return the big-endian number at an offset."""
    return int.from_bytes(data[at : at + 4])


# Orientation


def _of_exif(block: bytes) -> int:
    """Return the orientation in an EXIF block, 1 to 8, or 0 if it has none or is damaged."""
    page = read_page(block.removeprefix(b"Exif\0\0"))
    if page is None:
        return 0
    orientation = page.value(ORIENTATION, 0)
    return orientation if 1 <= orientation <= 8 else 0


def _of_xmp(text: bytes) -> int:
    found = _XMP_ORIENTATION.search(text)
    if found is None:
        return 0
    return int(found[1])


def _exif(orientation: int) -> bytes:
    """Return an EXIF block, from its byte order on, with only an orientation."""
    header = b"II*\0\x08\0\0\0"
    directory = struct.pack(
        "<HHHIHHI",
        1,  # number of entries
        ORIENTATION,
        3,  # type of the values: 16 bits
        1,  # number of values
        orientation,
        0,  # padding to 32 bits
        0,  # no next page
    )
    return header + directory


# PNG


def _bare_png(data: bytes) -> bytes:
    """Keep the header, palette, transparency and pixels of a PNG.

    Frames of an animation are dropped, which leaves the image that programs show if they do not
    play animations.
    """
    view = memoryview(data)
    bare = bytearray(_PNG)
    at = len(_PNG)
    has_pixels = False
    orientations = [0, 0, 0]  # from eXIf, from EXIF as text, from XMP, in order of trust
    num_notes = 0
    while at + 8 <= len(data):
        length = _uint32(view, at)
        kind = bytes(view[at + 4 : at + 8])
        end = at + 12 + length
        is_optional = kind[0] & 32 > 0  # a lower-case first letter
        is_note = is_optional and kind != b"tRNS"
        # Damaged or truncated: leave the rest to the codec, unless only a last note is incomplete.
        is_last_note = is_note and has_pixels
        is_truncated = end > len(data) and not is_last_note
        if is_truncated or not kind.isalpha():
            break
        if not is_note:
            bare += view[at:end]
            has_pixels = has_pixels or kind == b"IDAT"
        elif num_notes < MAX_NOTES and _has_orientation(kind, view[at + 8 : at + 40]):
            num_notes += 1
            _store_orientation(data[at:end], orientations)
        at = min(end, len(data))
    bare += view[at:]
    orientation = orientations[0] or orientations[1] or orientations[2]
    if orientation and len(bare) >= _PNG_HEADER_END:
        bare[_PNG_HEADER_END:_PNG_HEADER_END] = _png_chunk(b"eXIf", _exif(orientation))
    return bytes(bare)


def _has_orientation(kind: bytes, start: memoryview) -> bool:
    """Return whether a note is of a kind that may store the orientation."""
    if kind == b"eXIf":
        return True
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return False
    keys = (_XMP_KEY + b"\0", _RAW_EXIF_KEY + b"\0")
    return bytes(start).startswith(keys)


def _store_orientation(chunk: bytes, orientations: list[int]) -> None:
    """Store the orientation of a note at the position of its kind; ignore damaged notes."""
    kind = chunk[4:8]
    body = chunk[8:-4]
    if zlib.crc32(kind + body) != int.from_bytes(chunk[-4:]):
        return
    if kind == b"eXIf":
        orientations[0] = orientations[0] or _of_exif(body)
        return
    key, _, text = body.partition(b"\0")
    try:
        text = _plain_text(kind, text)
        if key == _XMP_KEY:
            orientations[2] = orientations[2] or _of_xmp(text)
        else:
            # ImageMagick's form: a blank line, a name, a length, then lines of hexadecimal digits.
            digits = b"".join(text.split(b"\n")[3:]).decode("ascii")
            orientations[1] = orientations[1] or _of_exif(bytes.fromhex(digits))
    except (ValueError, zlib.error):
        return


def _plain_text(kind: bytes, text: bytes) -> bytes:
    """Return the text of a note after its key, decompressed up to `MAX_NOTE` bytes."""
    if kind == b"iTXt":
        is_packed = text[:1] == b"\1"
        # Flag and method are a byte each; language and translated key end in a zero.
        text = text[2:].split(b"\0", 2)[-1]
    else:
        is_packed = kind == b"zTXt"
        if is_packed:
            text = text[1:]  # without the byte for the method
    if not is_packed:
        return text
    return zlib.decompressobj().decompress(text, MAX_NOTE)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    named_body = kind + body
    length = len(body).to_bytes(4)
    checksum = zlib.crc32(named_body).to_bytes(4)
    return length + named_body + checksum


# JPEG


def _bare_jpeg(data: bytes) -> bytes:
    """Drop application segments and comments, except those that define the colour space."""
    bare = bytearray(b"\xff\xd8")
    of_exif = of_xmp = 0
    scan = None
    for marker, at, end in jpeg_segments(data):
        if marker == 0xDA:
            scan = at
            break
        start = data[at + 4 : at + 40]
        if marker == 0xE1 and start.startswith(b"Exif\0\0"):
            of_exif = of_exif or _of_exif(data[at + 4 : end])
        elif marker == 0xE1 and start.startswith(_XMP_OF_JPEG):
            of_xmp = of_xmp or _of_xmp(data[at + 4 : end])
        if not _is_jpeg_note(marker, start, end - at):
            bare += data[at:end]
    if scan is None:
        return data
    # Codecs look for the orientation only in front of the scan.
    if orientation := of_exif or of_xmp:
        block = b"Exif\0\0" + _exif(orientation)
        length = 2 + len(block)
        bare += b"\xff\xe1" + length.to_bytes(2) + block
    return bytes(bare + memoryview(data)[scan:])


def _is_jpeg_note(marker: int, start: bytes, size: int) -> bool:
    # Two application segments define how the pixels are stored.
    is_jfif = marker == 0xE0 and start.startswith(b"JFIF\0")
    if is_jfif and size >= 18:
        return False
    is_adobe = marker == 0xEE and start.startswith(b"Adobe")
    if is_adobe and size >= 16:
        return False
    is_application = 0xE0 <= marker <= 0xEF
    is_comment = marker == 0xFE
    return is_application or is_comment


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each complete segment of a JPEG, up to the first scan."""
    at = 2
    while found := _PADDING.search(data, at):
        at = found.end() - 1
        if at + 4 > len(data):
            return
        marker = data[at + 1]
        has_no_content = marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9
        if has_no_content:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        end = at + 2 + length
        if end < at + 4 or end > len(data):
            return
        yield marker, at, end
        if marker == 0xDA:
            return
        at = end


# WebP


def _bare_webp(data: bytes) -> bytes:
    view = memoryview(data)
    bare = bytearray()
    at = 12
    has_pixels = False
    of_exif = of_xmp = 0
    while at + 8 <= len(data):
        kind = bytes(view[at : at + 4])
        length = int.from_bytes(view[at + 4 : at + 8], "little")
        body = at + 8
        body_end = body + length
        end = body_end + length % 2  # padded to an even length
        is_note = kind not in _WEBP_PIXELS
        # Leave truncated files to the codec, unless only a note after the pixels is incomplete.
        is_last_note = is_note and has_pixels
        if body_end > len(data) and not is_last_note:
            return data
        if not is_note:
            bare += view[at:end]
            has_pixels = has_pixels or kind in (b"VP8 ", b"VP8L", b"ANMF")
        elif kind == b"EXIF":
            of_exif = of_exif or _of_exif(data[body:body_end])
        elif kind == b"XMP ":
            of_xmp = of_xmp or _of_xmp(data[body:body_end])
        at = end
    # Only the extended format has flags for notes, and can therefore store an orientation.
    if bare.startswith(b"VP8X") and len(bare) >= 18:
        bare[8] &= 0xFF ^ sum(_WEBP_NOTES.values())
        if orientation := of_exif or of_xmp:
            bare[8] |= _WEBP_NOTES[b"EXIF"]
            block = _exif(orientation)
            length = len(block).to_bytes(4, "little")
            bare += b"EXIF" + length + block
    size = (4 + len(bare)) & 0xFFFFFFFF
    return b"RIFF" + size.to_bytes(4, "little") + b"WEBP" + bare


# JPEG 2000 and AVIF: boxes in boxes


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield type, start, start of the content, and end of each box between two offsets."""
    while at + 8 <= end:
        kind = data[at + 4 : at + 8]
        length = _uint32(data, at)
        body = at + 8
        # Two lengths are special: 1 is followed by a length of 64 bits, 0 reaches to the end.
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16])
            body = at + 16
        stop = at + length
        if length == 0:
            stop = end
        if stop < body or stop > end:
            return
        yield kind, at, body, stop
        at = stop


def _bare_jp2(data: bytes) -> bytes:
    bare = bytearray()
    has_pixels = False
    view = memoryview(data)
    for kind, at, body, end in boxes(data, 0, len(data)):
        if kind == b"jp2h":
            header = _bare_jp2_header(data, body, end)
            size = 8 + len(header)
            bare += size.to_bytes(4) + b"jp2h" + header
        elif kind in (b"jP  ", b"ftyp", b"jp2c"):
            bare += view[at:end]
            has_pixels = has_pixels or kind == b"jp2c"
    if not has_pixels:
        return data
    return bytes(bare)


def _bare_jp2_header(data: bytes, start: int, end: int) -> bytes:
    header = bytearray()
    for kind, at, body, stop in boxes(data, start, end):
        # A colour box that is too short to name a colour space makes codecs fail.
        is_damaged = kind == b"colr" and stop - body < 7
        if kind in _JP2_PIXELS and not is_damaged:
            header += data[at:stop]
    return bytes(header)


def _bare_avif(data: bytes) -> bytes:
    """Rename the items that are notes, so that the codec ignores them.

    The orientation of these files is stored in boxes of its own, not in the EXIF block.
    """
    bare = bytearray(data)
    for kind, _, body, end in boxes(data, 0, len(data)):
        if kind != b"meta":
            continue
        for inner_kind, _, start, stop in boxes(data, body + 4, end):
            if inner_kind == b"iinf":
                _skip_notes(data, start, stop, bare)
    return bytes(bare)


def _skip_notes(data: bytes, start: int, stop: int, bare: bytearray) -> None:
    """Rename the notes in a list of items from `start` to `stop`, in `bare`."""
    # The first byte is the version of a box, which decides about the sizes of its fields.
    is_first_version = data.startswith(b"\0", start)
    first_item = start + 6 if is_first_version else start + 8
    for kind, _, body, _ in boxes(data, first_item, stop):
        has_short_id = data.startswith(b"\2", body)
        type_at = body + 8 if has_short_id else body + 10
        is_note = data.startswith((b"Exif", b"mime"), type_at)
        if kind == b"infe" and is_note:
            bare[type_at : type_at + 4] = b"skip"
