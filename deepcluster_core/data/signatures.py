"""Recognise by content the files that are not images, and images of unsupported formats."""

import re
from collections.abc import Iterator

from deepcluster_core.data.contents import ARCHIVES, COMPRESSED, FILES

_JPEG = "convert it to JPEG"
_TEXT_LENGTH = 512
"""Number of bytes that decide whether a file is text."""
_SEARCHED = 1 << 16
"""Number of bytes in which signatures at unknown offsets are searched."""

_PICTURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"8BPS", "Photoshop (PSD)", "export it as PNG or JPEG"),
    (0, b"%PDF-", "PDF", "export its pages as PNG, for example with pdftoppm -png"),
    (0, b"%!PS", "PostScript (EPS)", "convert it to PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)", "convert it to PNG"),
    (0, b"\xff\x0a", "JPEG XL", "convert it to PNG or JPEG, for example with djxl"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "convert it to PNG or JPEG, for example with djxl"),
    (0, b"II\xbc", "JPEG XR", "convert it to PNG or JPEG"),
    (0, b"DDS ", "DDS texture", "convert it to PNG"),
    (0, b"icns", "macOS icon (ICNS)", "convert it to PNG"),
    (0, b"\xd7\xcd\xc6\x9a", "Windows metafile (WMF)", "convert it to PNG"),
    (40, b" EMF", "Windows metafile (EMF)", "convert it to PNG"),
    (128, b"DICM", "DICOM", "convert it to PNG or .npy, for example with pydicom"),
    (344, b"n+1\0", "NIfTI", "save slices as PNG or .npy, for example with nibabel"),
    (344, b"ni1\0", "NIfTI", "save slices as PNG or .npy, for example with nibabel"),
    (4, b"n+2\0", "NIfTI", "save slices as PNG or .npy, for example with nibabel"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5", "save its pictures as PNG or .npy, for example with h5py"),
    (0, b"v/1\x01", "OpenEXR", "convert it to PNG or .npy"),
    (0, b"#?RADIANCE", "Radiance HDR", "convert it to PNG or .npy"),
    (0, b"#?RGBE", "Radiance HDR", "convert it to PNG or .npy"),
    (0, b"SIMPLE  =", "FITS", "convert it to PNG or .npy, for example with astropy"),
    (0, b"SDPX", "DPX", "convert it to PNG"),
    (0, b"XPDS", "DPX", "convert it to PNG"),
    (0, b"gimp xcf", "GIMP (XCF)", "export it as PNG or JPEG"),
    (0, b"qoif", "QOI", "convert it to PNG"),
    (0, b"BPG\xfb", "BPG", "convert it to PNG or JPEG"),
    (0, b"FLIF", "FLIF", "convert it to PNG"),
    (0, b"AT&TFORM", "DjVu", "convert it to PNG"),
    (0, b"\x8aMNG", "MNG animation", "convert it to PNG"),
    (0, b"\x8bJNG", "JNG", "convert it to PNG or JPEG"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster", "convert it to PNG"),
    (0, b"\x01\xda\0\1", "SGI picture", "convert it to PNG"),
    (0, b"\x01\xda\1\1", "SGI picture", "convert it to PNG"),
    (0, b"\x0a\5\1\1", "PCX", "convert it to PNG"),
    (0, b"\x0a\5\1\x08", "PCX", "convert it to PNG"),
    (0, b"P7\nWIDTH", "PAM", "convert it to PNG"),
    (0, b"PF\n", "PFM in colour", "convert it to PNG or .npy"),
    (0, b"/* XPM */", "XPM", "convert it to PNG"),
    (0, b"BA", "OS/2 bitmap array", "convert it to PNG"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (Fujifilm RAF)", _JPEG),
    (0, b"IIRO", "camera raw (Olympus ORF)", _JPEG),
    (0, b"IIRS", "camera raw (Olympus ORF)", _JPEG),
    (0, b"MMOR", "camera raw (Olympus ORF)", _JPEG),
    (0, b"IIU\0", "camera raw (Panasonic RW2)", _JPEG),
    (0, b"FOVb", "camera raw (Sigma X3F)", _JPEG),
    (0, b"\0MRM", "camera raw (Minolta MRW)", _JPEG),
    (0, b"II\x1a\0\0\0HEAPCCDR", "camera raw (Canon CRW)", _JPEG),
)
"""Unsupported image formats: offset, bytes at the offset, name, and what to do."""

_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"/annex/objects/", "a git-annex pointer, not the file itself: run git annex get"),
    (0, b"\0\5\x16\7", "macOS metadata (AppleDouble, a ._ file): leave it out"),
    (0, b"\0\5\x16\0", "macOS metadata (AppleSingle): leave it out"),
    (0, b"book\0\0\0\0", "a macOS alias: put the file itself in its place"),
    (0, b"bplist00", "a macOS property list, such as an iCloud placeholder: download the file"),
    (0, b"L\0\0\0\1\x14\2\0", "a Windows shortcut: put the file itself in its place"),
    (0, b"[InternetShortcut]", "an internet shortcut: download the file itself"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Windows document, such as Thumbs.db: leave it out"),
    (0, b"PK\5\6", "an empty ZIP archive"),
    (257, b"ustar", "a tar archive: name it .tar and give it as the source"),
    *((0, start, f"compressed by {name}: unpack it") for start, (name, _) in COMPRESSED.items()),
    *((0, start, f"{name}: unpack it") for start, name in ARCHIVES.items()),
    *((0, start, f"{name}: {help_text}") for start, (name, help_text) in FILES.items()),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file: save its pictures as .npy"),
    (0, b"\x1a\x45\xdf\xa3", "a video (WebM or Matroska): extract its frames"),
    (0, b"\0\0\1\xba", "a video (MPEG): extract its frames"),
    (0, b"\0\0\1\xb3", "a video (MPEG): extract its frames"),
    (0, b"FLV\1", "a video (Flash): extract its frames"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video (Windows Media): extract its frames"),
    (0, b"OggS", "a sound or video file (Ogg)"),
    (0, b"ID3", "a sound file (MP3)"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (
        0,
        b"\x89PNG\n\x1a\n",
        "a PNG damaged by a transfer in text mode: copy it again",
    ),
    (0, b"\x89PNG\r\r\n", "a PNG damaged by a transfer in text mode: copy it again"),
)
"""Files that are not images, or damaged ones: offset, bytes at the offset, and what they are."""

_MARKUP = (
    (rb"<svg[\s>]", "SVG"),
    (rb"<!doctype html|<html|<head|<body", "HTML"),
    (rb"<\?xml|<[a-z!?]", "XML"),
)

_MARKUP_WORDS = {
    "SVG": "SVG is not supported: convert it to PNG, for example with rsvg-convert",
    "HTML": "not an image but a web page (HTML), often an error page: download it again",
    "XML": "not an image but XML text, often a server's error message: download it again",
}

_TEXTS = (
    (
        rb"[{\[]",
        "not an image but JSON text, often a server's error message: download it again",
    ),
    (rb"http/1", "not an image but a server's answer with its headers: save the body alone"),
    (rb"#define \w+_width", "XBM is not supported: convert it to PNG"),
    (rb"data:image/", "not an image but a data: URL: decode its base64 text"),
)

_INSIDE = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"mif1", b"msf1", b"mif2", b"miaf"})
_HEIF_CODECS = ((b"av01", "AVIF"), (b"hvc1", "HEIC"), (b"vvc1", "HEIF (VVC)"))
HEIC_KINDS = ("HEIC", "HEIF", "HEIF (VVC)")
"""What `iso_media_kind` returns for the files that pillow-heif reads."""
HEIC_HELP = "convert it to JPEG, for example with heif-convert, or set the phone to Most Compatible"


def explained(data: bytes) -> str:
    """Return one line for a file without a decoder: what it is, and what to do about it."""
    if data.count(0) == len(data):
        return "only zero bytes: an unfinished download or copy; get it again"
    # Text may begin with a short signature by chance.
    min_length = 4 if is_text(data) else 2
    for at, start, name, help_text in _PICTURES:
        if len(start) >= min_length and data.startswith(start, at):
            return f"{name} is not supported: {help_text}"
    for at, start, description in _OTHERS:
        if len(start) >= min_length and data.startswith(start, at):
            return f"not an image but {description}"
    # From the clearest signature to the vaguest.
    for recognise in (_riff, _media, _icon, _markup, _text, _targa):
        explanation = recognise(data)
        if explanation is not None:
            return explanation
    return _unknown(data)


def missing_in_pillow(name: str) -> str:
    """Return the message for a format that the installed Pillow was built without."""
    return (
        f"{name} is not supported by the installed Pillow: update it, pip install --upgrade "
        f"pillow, or {_JPEG}"
    )


def _icon(data: bytes) -> str | None:
    name = {b"\0\0\1\0": "icon (ICO)", b"\0\0\2\0": "cursor (CUR)"}.get(data[:4])
    # A TGA file may begin with the same bytes, but then the number of pictures is zero.
    has_pictures = any(data[4:6])
    if name is None or not has_pictures:
        return None
    return f"Windows {name} is not supported: convert it to PNG"


def iso_media_kind(data: bytes) -> str | None:
    """Return AVIF, HEIC, a HEIF kind, CR3 or VIDEO for files of the MP4 family, or None."""
    if data[4:8] != b"ftyp":
        return None
    major = data[8:12]
    if major == b"crx ":
        return "CR3"
    # The major brand decides if it can, then the compatible ones.
    brands = {major, *_compatible_brands(data)}
    for candidates in ({major}, brands):
        if candidates & _HEIC_BRANDS:
            return "HEIC"
        if candidates & _AVIF_BRANDS:
            return "AVIF"
    return _heif_kind(data) if brands & _HEIF_BRANDS else "VIDEO"


def _compatible_brands(data: bytes) -> Iterator[bytes]:
    box_size = int.from_bytes(data[:4])
    end = min(max(16, box_size), 4096, len(data))
    for at in range(16, end - 3, 4):
        yield data[at : at + 4]


def _heif_kind(data: bytes) -> str:
    """Return the kind of a HEIF file whose brands name only the container."""
    start = data[:_SEARCHED]
    for codec, name in _HEIF_CODECS:
        if codec in start:
            return name
    return "HEIF"


def _media(data: bytes) -> str | None:
    kind = iso_media_kind(data)
    if kind is None:
        return _quicktime(data)
    if kind == "CR3":
        return f"camera raw (Canon CR3) is not supported: {_JPEG}"
    if kind == "AVIF":
        return missing_in_pillow("AVIF")
    return _film(data)


def _quicktime(data: bytes) -> str | None:
    # Old QuickTime files have no `ftyp` box.
    is_quicktime = data[4:8] in (b"moov", b"mdat", b"wide", b"pnot")
    if is_quicktime and len(data) > 16:
        return "not an image but a video (QuickTime): extract its frames"
    return None


def _film(data: bytes) -> str:
    brand = data[8:12].decode("latin-1").strip()
    if brand.startswith("M4A"):
        return "not an image but a sound file (M4A)"
    if brand == "qt":
        name = "QuickTime"
    elif brand.isprintable():
        name = f"MP4, {brand}"
    else:
        name = "MP4"
    return f"not an image but a video ({name}): extract its frames"


def _riff(data: bytes) -> str | None:
    if not data.startswith((b"RIFF", b"RIFX")):
        return None
    kind = data[8:12]
    if kind == b"AVI ":
        return "not an image but a video (AVI): extract its frames"
    if kind == b"WAVE":
        return "not an image but a sound file (WAV)"
    # The decoder has not recognised it as an image, so its beginning is damaged.
    if kind == b"WEBP":
        if len(data) < 30:
            return "truncated file (WEBP)"
        return "damaged or truncated WEBP file"
    return f"not an image but a RIFF file ({kind!r})"


def is_text(data: bytes) -> bool:
    """Return whether the first `_TEXT_LENGTH` bytes of a file are text."""
    start = data[:_TEXT_LENGTH]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return b"\0" in start
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut off.
        if error.start < len(start) - 3:
            return False
        text = start[: error.start].decode()
    if not text:
        return False
    return all(c.isprintable() or c in "\t\n\r\f" for c in text)


def _start_of_text(data: bytes) -> bytes:
    """Return the beginning in lower case, without a byte order mark and blanks."""
    start = data[: 8 * _TEXT_LENGTH]
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def _markup(data: bytes) -> str | None:
    start = _start_of_text(data)
    for pattern, kind in _MARKUP:
        if not re.match(pattern, start):
            continue
        # SVG and HTML may begin with a declaration of XML.
        if kind == "XML" and b"<svg" in start:
            return _MARKUP_WORDS["SVG"]
        if kind == "XML" and b"<html" in start:
            return _MARKUP_WORDS["HTML"]
        return _MARKUP_WORDS[kind]
    return None


def _text(data: bytes) -> str | None:
    if not is_text(data):
        return None
    start = _start_of_text(data)
    for pattern, explanation in _TEXTS:
        if re.match(pattern, start):
            return explanation
    return f"not an image but text: starts with {data[:24]!r}"


def _targa(data: bytes) -> str | None:
    if len(data) < 18:
        return None
    has_footer = data[-18:-2] == b"TRUEVISION-XFILE"
    if has_footer or _is_targa_header(data):
        return "TGA is not supported: convert it to PNG"
    return None


def _is_targa_header(data: bytes) -> bool:
    """Return whether all fields are plausible; the header has no signature."""
    has_palette = data[1]
    kind = data[2]
    width = data[12:14]
    height = data[14:16]
    bits = data[16]
    flags = data[17]
    checks = (
        has_palette in (0, 1),
        kind in (1, 2, 3, 9, 10, 11),
        bits in (8, 15, 16, 24, 32),
        flags & 0xC0 == 0,
        any(width),
        any(height),
    )
    return all(checks)


def _unknown(data: bytes) -> str:
    # A program may have written something in front of an image.
    for start, name in _INSIDE.items():
        at = data.find(start, 1, _SEARCHED)
        if at > 0:
            return (
                f"not an image: starts with {data[:8]!r}; a {name} begins at byte {at}: "
                f"remove what is in front of it"
            )
    return f"not an image: starts with {data[:8]!r}"
