"""Recognise by its first bytes what a file is, if it cannot be read as its name suggests."""

import os
import shlex
from pathlib import Path

COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x04\x22\x4d\x18": ("LZ4", "lz4 -d"),
}
"""First bytes of compressed files -> name of the method and a command that unpacks it."""
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
_IN_PLACE_OF_TABLES = {
    b"\xff\xff\xff\xff": ("an Arrow stream", "write it as Parquet"),
    b"<!DOCTYPE": ("a web page, perhaps of a failed download", "download the file again"),
    b"<html": ("a web page, perhaps of a failed download", "download the file again"),
}


def described_contents(path: Path, start: int = 0) -> tuple[str, str] | None:
    """Return what a file is and how to make it usable; None if its contents are unknown.

    Args:
        path: path of a file that could not be read.
        start: offset of the relevant part of the file.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            head = file.read(512)
    except OSError:
        return None
    if not head and not start:
        return "empty file, 0 bytes", "download or write it again, or remove it"
    if head[257:262] == b"ustar":  # a tar file begins with a file name, which could match below
        return None
    shown = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    for magic, (name, program) in COMPRESSED.items():
        if head.startswith(magic):
            return (
                f"compressed by {name}",
                f"compressed tar files must be unpacked first: {program} "
                f"< {shlex.quote(shown)} > unpacked.tar",
            )
    archives = {m: (name, "unpack it and give the folder") for m, name in ARCHIVES.items()}
    for magic, found in (FILES | archives | _IN_PLACE_OF_TABLES).items():
        if head.lower().startswith(magic.lower()):
            return found
    return None
