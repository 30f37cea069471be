"""The interface of sources of images, and functions that all of them share."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deepcluster_core.shortage import explain_damage

READ_EXTENSIONS = (
    ".jpg .jpeg .jpe .jfif .png .webp .gif .tif .tiff .bmp .ppm .pgm .pbm .pnm .avif .jp2 .j2k "
    ".npy .apng .dib .pfm .avifs .jpf .jpx .j2c .jpc .dcm .dicom"
)
"""Extensions of the formats that can be read, some of them with a package of an extra."""
NAMED_EXTENSIONS = ".heic .heif .jxl .tga"
"""Extensions of files that cannot be read, or only with an extra, but that count as images so that
skipped files are reported."""

IMAGE_EXTENSIONS = frozenset(f"{READ_EXTENSIONS} {NAMED_EXTENSIONS}".split())
"""Extensions of image files, in lower case. Files without an extension never count as images."""

MAX_FILE_BYTES = 1 << 30
"""A larger file is not read: a 178-megapixel picture is at most 1 GiB even at 16-bit colour."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image of a source, whose file has not been opened yet."""

    path: str
    """Path in tables: '/'-separated, relative to the source, always valid UTF-8 (see
    `displayed`)."""
    label: str | None
    """Its class; None if the source does not store one."""
    read: Callable[[], bytes]
    """Returns the whole file; may be called from any thread, also after the iteration. Raises
    OSError with the reason, or LeftOutError."""
    prepare: Callable[[], None] | None = None
    """Begins to fetch a file that is on a store, for `read` to wait for; None for other files. May
    be left out: then `read` fetches it."""


def prepared(images: list[SourceImage]) -> list[SourceImage]:
    """Begin to fetch those of some images that are on a store; return the images."""
    for image in images:
        if image.prepare is not None:
            image.prepare()
    return images


class Source(Protocol):
    """Images in an order that depends on their names only, not on the file system or locale."""

    @property
    def originals(self) -> Path | None:
        """The folder to which paths are relative; None if images are not files of their own."""
        ...

    def images(self) -> Iterator[SourceImage]:
        """Yield every image, readable or not; memory holds only the current folder or shard.

        Raises:
            SourceError: a part of the source cannot be listed, so that images would be lost.
        """
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256, in hex, of the names, sizes and modification times of the files.

        No image is opened. A copy of the data has the same fingerprint if it keeps the times. On a
        store, ETags take the place of times.
        """
        ...

    def count(self) -> int | None:
        """Return how many images `images` yields, or None if all data would have to be read."""
        ...

    def notes(self) -> list[str]:
        """Return notes for users about the last listing by `images`, one sentence each.

        They report what was left out, and what was decided where the names are ambiguous.
        """
        ...


def displayed(name: str) -> str:
    r"""Return a file name as valid UTF-8 text: bytes that are not UTF-8 are written `\xff`.

    File systems allow any bytes, Parquet's strings do not. Names that are UTF-8 do not change, even
    if they contain line breaks.
    """
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_image_name(name: str) -> bool:
    """Return whether the extension, in upper or lower case, is that of an image file."""
    _, dot, last_part = name.rpartition(".")
    extension = f"{dot}{last_part}".lower()
    return extension in IMAGE_EXTENSIONS


def is_hidden(name: str) -> bool:
    """Return whether an operating system created the entry: .DS_Store, ._photo.jpg, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: the file is missing, not regular (reading a pipe could block forever), or too
            large; the text is the reason alone, without the path.
    """

    def explain(error: Exception) -> OSError:
        if isinstance(error, OSError):
            return OSError(error.strerror or str(error))
        # A path in a list may contain a NUL, for which Python raises ValueError.
        return OSError(f"not a file name: {error}")

    with explain_damage(explain, OSError, ValueError):
        # Checked before opening, which alone could block for a pipe.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        check_file_size(status.st_size)
        return path.read_bytes()


def check_file_size(size_bytes: int) -> None:
    """Raise OSError for a file that is too large to be one image."""
    if size_bytes > MAX_FILE_BYTES:
        raise OSError(f"{size_bytes} bytes is over the limit of {MAX_FILE_BYTES} for one image")


def fingerprint_files(kind: str, files: Iterable[tuple[str, Path]]) -> str:
    """Return the SHA-256, in hex, of names, sizes and modification times, in the given order.

    Args:
        kind: the kind of the source.
        files: name relative to the source, and path of each file. A missing file is included as
            missing, and a link as the file that it points to.
    """
    digest = hashlib.sha256(kind.encode())
    for name, path in files:
        raw_name = os.fsencode(name)
        digest.update(b"\0%b\0%b" % (raw_name, file_facts(path).encode()))
    return digest.hexdigest()


def file_facts(path: Path) -> str:
    """Return size and modification time of a file, as they count in a fingerprint."""
    # A file that is missing, or whose listed name is not possible, must not stop a run.
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
