"""Tar files, not compressed: their members, and shards in the layout of WebDataset."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from deepcluster_core.data.contents import described_contents
from deepcluster_core.data.sources.base import is_hidden, refuse_large
from deepcluster_core.errors import SourceError


def members(
    path: Path, *, must_end: bool = False, start: int = 0, end: int | None = None
) -> Iterator[tarfile.TarInfo]:
    """Yield the regular members that are not hidden; 20 microseconds each.

    Args:
        path: of the tar file.
        must_end: refuse a file that stops after a member, without the block of zeros that ends a
            tar file. Some programs write none; but so does a download break off, one in a hundred.
        start: where in the file the archive begins, if it is a member of another one.
        end: and where it ends.

    Raises:
        SourceError: compressed, not a tar file, or it breaks off.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while end is None or archive.offset < end:
                    if (member := archive.next()) is None:
                        break
                    # tarfile keeps every member it met: gigabytes for a shard of millions.
                    archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                    if member.size < 0:  # a pax header may say so; tarfile would go back, for ever
                        raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
                    if member.isreg() and not member.issparse() and not _is_hidden(member.name):
                        yield member
                if end is not None and archive.offset > end:
                    raise tarfile.ReadError("its last member is longer than the archive")
                if archive.offset != end:
                    _refuse_early_end(path, archive.offset, must_end=must_end)
    except (OSError, ValueError, tarfile.TarError) as error:  # ValueError: numbers in headers
        raise _unreadable(path, start, error) from error


def _unreadable(path: Path, start: int, error: Exception) -> SourceError:
    found = described_contents(path, start)
    cause, fix = found or (
        str(error),
        "download or write it again; compressed tar files must be unpacked first (gunzip)",
    )
    place = f" at byte {start}" if start else ""
    return SourceError(f"{path}: cannot be read as a tar file{place} ({cause}).\n  Fix: {fix}.")


def _refuse_early_end(path: Path, offset: int, *, must_end: bool) -> None:
    """Check for the block of zeros that ends a tar file; a damaged header ends tarfile's too."""
    block = read_at(path, offset, tarfile.BLOCKSIZE)
    if (block or must_end) and block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"damaged or cut off at byte {offset}")


def read_member(path: Path, offset: int, size: int) -> bytes:
    """Read through a handle of its own, so that threads and the iteration do not meet.

    Raises:
        OSError: it is too large, or the tar file is gone or was cut.
    """
    refuse_large(size)
    data = read_at(path, offset, size)
    if len(data) < size:
        raise OSError("the tar file is cut off inside this member")
    return data


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Return up to `size` bytes from a place in a file."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)


def harmless(name: str) -> str:
    """Return a member's name without a leading '/' and any '.' and '..'."""
    if name[:1] not in ("/", ".") and "/." not in name and "//" not in name:
        return name.rstrip("/")  # nearly all names; there may be millions
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _is_hidden(name: str) -> bool:
    if name[:1] not in ("/", ".") and "/." not in name and "__MACOSX" not in name:
        return False
    return any(is_hidden(part) for part in harmless(name).split("/"))
