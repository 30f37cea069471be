"""Recognise what a file is by its first bytes, if it cannot be read as its name suggests."""

import os
import shlex
from typing import IO, Literal, Protocol

COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x04\x22\x4d\x18": ("LZ4", "lz4 -d"),
}
"""First bytes of compressed files -> name of the method and a command that unpacks them."""
ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
}
FILES = {
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "run git lfs pull"),
    b"PAR1": ("a Parquet file", "name it .parquet and give it as the source"),
    b"PARE": ("an encrypted Parquet file", "decrypt it with the program that wrote it"),
    b"ARROW1": ("an Arrow file", "write it as Parquet"),
}
"""First bytes of files that are neither images nor archives -> what they are and what to do."""
_CAUSES = {
    **FILES,
    **{magic: (name, "unpack it and give the folder") for magic, name in ARCHIVES.items()},
    b"\xff\xff\xff\xff": ("an Arrow stream", "write it as Parquet"),
    b"<!DOCTYPE": ("a web page, perhaps of a failed download", "download the file again"),
    b"<html": ("a web page, perhaps of a failed download", "download the file again"),
}
"""First bytes of files that are found in place of a table or tar file -> cause and fix."""


class _Status(Protocol):
    @property
    def st_size(self) -> int: ...


class DataFile(Protocol):
    """A file that is read by parts: a path of this machine, or a file of a store."""

    @property
    def name(self) -> str:
        """The name, as `Path.name`."""
        ...

    def open(self, mode: Literal["rb"], /) -> IO[bytes]:
        """Open the file for reading."""
        ...

    def stat(self) -> _Status:
        """Return its status."""
        ...


def described_contents(path: DataFile, start: int = 0) -> tuple[str, str] | None:
    """Return what a file is and how to make it usable; None if its contents are unknown.

    Args:
        path: path of a file that could not be read.
        start: offset of the relevant part of the file.

    Returns:
        The cause and the fix, for an error message.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            head = file.read(512)
    except OSError:
        return None
    if not head and not start:
        return "empty file, 0 bytes", "download or write it again, or remove it"
    # A tar file begins with a file name, which could match a signature.
    if head[257:262] == b"ustar":
        return None
    file_name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    for magic, (method, program) in COMPRESSED.items():
        if head.startswith(magic):
            cause = f"compressed by {method}"
            command = f"{program} < {shlex.quote(file_name)} > unpacked.tar"
            return cause, f"compressed tar files must be unpacked first: {command}"
    lower_head = head.lower()  # signatures of web pages may be in capitals
    for magic, cause_and_fix in _CAUSES.items():
        if lower_head.startswith(magic.lower()):
            return cause_and_fix
    return None
