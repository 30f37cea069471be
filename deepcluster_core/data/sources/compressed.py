"""Compressed tar files, which are unpacked for as long as their images are read."""

import errno
import gzip
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path

from deepcluster_core.data.contents import DataFile
from deepcluster_core.errors import SourceError, first_line

SUFFIXES = (".tar.gz", ".tgz")
"""Extensions of compressed tar files, in lower case."""


def is_compressed(file: Path) -> bool:
    """Return whether a file has the name of a compressed tar file."""
    return file.name.lower().endswith(SUFFIXES)


class UnpackedTar:
    """A tar file in the folder for temporary files, deleted when nothing refers to this object.

    Images are read in any order and by several threads, which a compressed file does not allow.
    """

    def __init__(self, file: Path, *, shown: object = None) -> None:
        """Unpack a compressed tar file.

        Args:
            file: the file.
            shown: its place for messages; None for `file`.

        Raises:
            SourceError: the file is damaged or cut off, or the disk is too full for it.
        """
        descriptor, name = tempfile.mkstemp(prefix="deepcluster-", suffix=".tar")
        self.path = Path(name)
        """The unpacked file."""
        weakref.finalize(self, self.path.unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as unpacked:
            try:
                with gzip.open(file) as packed:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
            except (OSError, EOFError, zlib.error) as error:
                raise _not_unpacked(shown or file, error) from error


def streamed_names(file: Path | DataFile) -> Iterator[str]:
    """Yield the names of the regular members of a compressed tar file, unpacking as few as asked.

    Raises:
        SourceError: the file is damaged or cut off.
    """
    try:
        with file.open("rb") as opened, tarfile.open(fileobj=opened, mode="r|gz") as archive:
            for member in archive:
                if member.isreg():
                    yield member.name
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise _not_unpacked(file, error) from error


def _not_unpacked(file: object, error: Exception) -> SourceError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return SourceError(
            f"{file}: is unpacked before it is read, and there is no room for it.\n"
            f"  Fix: make room in {tempfile.gettempdir()}, or set TMPDIR to another folder."
        )
    return SourceError(
        f"{file}: cannot be unpacked ({first_line(error)}).\n"
        f"  Fix: download or write it again; an uncompressed tar file ends in .tar."
    )
