"""Decode images of a source and pack their pixels, which workers do in parallel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.images import Encoding, ImagesWriter, PackedImage, encode
from deepcluster_core.data.decode import Decoded, UnreadableImageError, decode
from deepcluster_core.data.deep_scales import DeepRule
from deepcluster_core.data.findings import Findings
from deepcluster_core.data.pages import Pages
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.data.unreadable import LeftOutError
from deepcluster_core.shortage import is_shortage


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
        findings.add(self.decoded)
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


@dataclass(frozen=True)
class Packing:
    """How images are decoded and packed; the values are those of a recipe's dataset section."""

    channels: int
    shorter_side: int | None
    """Pixels; None keeps the original size."""
    deep: DeepRule
    pages: Pages | None
    encoding: Encoding
    jpeg_quality: int
    originals: Path | None
    """Folder of the files of the source; None if it holds many images in one file."""

    def pack_all(self, images: Sequence[SourceImage]) -> list[Outcome]:
        """Decode and pack a group of images."""
        return [self.pack(image) for image in images]

    def pack(self, image: SourceImage) -> Outcome:
        """Decode and pack one image.

        Raises:
            MemoryError, OSError: memory or disk ran out, so that the image itself may be good.
        """
        try:
            self._check_original(image)
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
            if is_shortage(error):
                raise
            return Outcome(image, str(error))
        return Outcome(image, decoded=decoded, packed=packed)

    def _check_original(self, image: SourceImage) -> None:
        """Raise OSError if later stages could not open the original by its path in the index."""
        if self.encoding != "none" or not self.originals:
            return
        original = self.originals / image.path
        if not original.exists():
            raise OSError("missing, or its name is not UTF-8: to use it, pack the images")
