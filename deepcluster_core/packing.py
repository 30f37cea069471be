"""Decode and pack images, and continue where an interrupted attempt has saved its progress."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.images import Encoding, ImagesWriter, PackedImage, encode
from deepcluster_core.artifacts.index_saves import IndexSave, Row, forget_rows, read_rows
from deepcluster_core.artifacts.saved import Saved
from deepcluster_core.data.decode import Decoded, UnreadableImageError, decode
from deepcluster_core.data.deep_scales import DeepRule
from deepcluster_core.data.findings import Findings
from deepcluster_core.data.pages import Pages
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.data.sources.base import prepared
from deepcluster_core.data.sources.bookmarks import Bookmark
from deepcluster_core.data.unreadable import LeftOutError
from deepcluster_core.shortage import is_shortage

READ_AT_ONCE = 32
"""Images that one worker reads before it takes the next group."""


def groups(images: Iterator[SourceImage]) -> Iterator[list[SourceImage]]:
    """Yield images in groups, because handing single ones to workers would cost more time."""
    while group := list(islice(images, READ_AT_ONCE)):
        yield prepared(group)


@dataclass(frozen=True)
class Outcome:
    """What became of an image: its packed pixels, or the reason why there are none."""

    image: SourceImage
    reason: str = ""
    is_loss: bool = True
    """Whether an image without pixels was lost, and not left out on purpose."""
    decoded: Decoded | None = None
    packed: bytes = b""

    def record(self, writer: ImagesWriter, findings: Findings) -> None:
        """Add the image to the artifact, or to its list of skipped images."""
        if self.decoded is None:
            writer.skip(self.image.path, self.reason, is_loss=self.is_loss)
            return
        height, width = self.decoded.pixels_HWC.shape[:2]
        row = PackedImage(
            path=self.image.path,
            label=self.image.label,
            width=self.decoded.width,
            height=self.decoded.height,
            format=self.decoded.format,
            packed_height=height,
            packed_width=width,
            packed=self.packed,
        )
        writer.add(row)
        findings.add(self.decoded)  # afterwards: what is saved in `add` does not count this image


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How images are decoded and packed; the settings are those of the section `dataset`."""

    channels: int
    shorter_side: int | None
    deep: DeepRule
    pages: Pages | None
    encoding: Encoding
    jpeg_quality: int
    originals: Path | None
    """The folder to which paths are relative, if images are files of this machine."""

    def pack_all(self, images: list[SourceImage]) -> list[Outcome]:
        """Decode a group of images in a worker; see `pack`."""
        return [self.pack(image) for image in images]

    def pack(self, image: SourceImage) -> Outcome:
        """Decode and pack one image."""
        try:
            # Without packing, later stages open the original by its path in the index.
            if self.encoding == "none" and self.originals:
                original = self.originals / image.path
                if not original.exists():
                    raise OSError("missing, or its name is not UTF-8: to use it, pack the images")
            decoded = decode(
                image.read(),
                channels=self.channels,
                shorter_side=self.shorter_side,
                deep=self.deep,
                pages=self.pages,
            )
            packed = encode(decoded.pixels_HWC, self.encoding, self.jpeg_quality)
        except LeftOutError as error:
            return Outcome(image, str(error), is_loss=False)
        except (OSError, UnreadableImageError) as error:
            if is_shortage(error):  # memory or disk ran out, so the image itself may be good
                raise
            return Outcome(image, str(error))
        return Outcome(image, decoded=decoded, packed=packed)


@dataclass(frozen=True)
class SavedIndex:
    """What an interrupted attempt has saved, after a check that its files are there."""

    folder: Path
    save: IndexSave
    facts: Mapping[str, Any]
    """Facts of the save, among them those of the manifest about deep pictures."""

    @property
    def bookmark(self) -> Bookmark | None:
        """A place in the source before which all images are saved."""
        values = self.facts["bookmark"]
        return None if values is None else Bookmark(**values)

    def restore(self, writer: ImagesWriter, findings: Findings) -> int:
        """Continue the writer and the findings; return how many images are saved."""
        findings.restore(self.save.findings)
        writer.resume(self.save, self._rows())
        return self.save.seen

    def _rows(self) -> Iterator[list[Row]]:
        """Yield the rows of each file of pixels."""
        for number in range(self.save.parts):
            rows = read_rows(self.folder, number)
            assert rows is not None  # checked by `saved_index`
            yield rows


def saved_index(folder: Path, saved: Saved | None) -> SavedIndex | None:
    """Return what an interrupted attempt has saved; None if there is nothing that can be used."""
    if saved is None:
        return None
    save = IndexSave.of(saved.facts)
    if all(read_rows(folder, number) is not None for number in range(save.parts)):
        return SavedIndex(folder, save, saved.facts)
    forget_rows(folder)
    return None
