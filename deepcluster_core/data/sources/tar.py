"""Tar files, not compressed: their members, and shards in the layout of WebDataset."""

import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from deepcluster_core.data.sources.base import (
    SourceImage,
    displayed,
    fingerprint_files,
    is_hidden,
    is_image_name,
    refuse_large,
)
from deepcluster_core.errors import SourceError

MAX_LABEL_BYTES = 4096


class TarSource:
    """The images in tar files, in the order of the files' names and of their members.

    A label is the text of the member `0001.cls` next to `0001.jpg`: before or after it, without
    other names between. Nothing is ever extracted, members are only read where they lie. Links,
    devices and sparse files in a shard are passed over, and names lose a leading '/' and any '..'.
    """

    def __init__(self, files: Sequence[Path], *, with_labels: bool) -> None:
        """Take `files`, sorted; nothing is read yet."""
        self._files = [file.absolute() for file in files]
        self._with_labels = with_labels

    @property
    def originals(self) -> None:
        """None: images are members."""
        return None

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        for file in self._files:
            shard = displayed(file.name)
            for _, siblings in groupby(members(file), key=_stem):
                beside = list(siblings)
                label = _label(file, beside) if self._with_labels else None
                for member in beside:
                    name = harmless(member.name)
                    if is_image_name(name):
                        read = partial(read_member, file, member.offset_data, member.size)
                        yield SourceImage(f"{shard}/{displayed(name)}", label, read)

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprint_files("tar", ((file.name, file) for file in self._files))

    def count(self) -> None:
        """Return None: a tar file has no table of its members."""
        return

    def notes(self) -> list[str]:
        """See `Source`."""
        return []


def members(path: Path, *, must_end: bool = False) -> Iterator[tarfile.TarInfo]:
    """Yield the regular members that are not hidden; 20 microseconds each.

    Args:
        path: of the tar file.
        must_end: refuse a file that stops after a member, without the block of zeros that ends a
            tar file. Some programs write none; but so does a download break off, one in a hundred.

    Raises:
        SourceError: compressed, not a tar file, or it breaks off.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                # tarfile keeps every member it met: gigabytes for a shard of millions.
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                if member.size < 0:  # a pax header may say so; tarfile would go back, for ever
                    raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
                if member.isreg() and not member.issparse() and not _is_hidden(member.name):
                    yield member
            _refuse_early_end(path, archive.offset, must_end=must_end)
    except (OSError, ValueError, tarfile.TarError) as error:  # ValueError: numbers in headers
        raise SourceError(
            f"{path}: cannot be read as a tar file ({error}).\n"
            f"  Fix: download or write it again; compressed tar files must be unpacked first "
            f"(gunzip)."
        ) from error


def _refuse_early_end(path: Path, offset: int, *, must_end: bool) -> None:
    """Check for the block of zeros that ends a tar file; a damaged header ends tarfile's too."""
    block = _read_at(path, offset, tarfile.BLOCKSIZE)
    if (block or must_end) and block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"damaged or cut off at byte {offset}")


def _label(path: Path, beside: list[tarfile.TarInfo]) -> str | None:
    for member in beside:
        if member.name.endswith(".cls"):
            size = min(member.size, MAX_LABEL_BYTES)
            text = _read_at(path, member.offset_data, size).decode("utf-8", "backslashreplace")
            return text.strip() or None
    return None


def read_member(path: Path, offset: int, size: int) -> bytes:
    """Read through a handle of its own, so that threads and the iteration do not meet.

    Raises:
        OSError: it is too large, or the tar file is gone or was cut.
    """
    refuse_large(size)
    data = _read_at(path, offset, size)
    if len(data) < size:
        raise OSError("the tar file is cut off inside this member")
    return data


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)


def harmless(name: str) -> str:
    """Return a member's name without a leading '/' and any '.' and '..'."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _is_hidden(name: str) -> bool:
    return any(is_hidden(part) for part in harmless(name).split("/"))


def _stem(member: tarfile.TarInfo) -> str:
    return member.name.rpartition(".")[0]
