"""Read and pack the images of a source, in the workers of the index stage."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from deepcluster_core.artifacts.images_writer import ImagesWriter, PackedImage
from deepcluster_core.artifacts.outcomes import Outcome
from deepcluster_core.artifacts.packing import Packing
from deepcluster_core.data.decode import UnreadableImageError, decode
from deepcluster_core.data.deep_scales import DeepRule
from deepcluster_core.data.findings import Findings
from deepcluster_core.data.pages import Pages
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.data.sources.base import prepared
from deepcluster_core.data.unreadable import LeftOutError
from deepcluster_core.shortage import is_shortage

READ_AT_ONCE = 32
"""Images that one worker reads before it takes the next group."""


def groups(images: Iterator[SourceImage]) -> Iterator[list[SourceImage]]:
    """Yield images in groups, because handing single ones to workers would cost more time."""
    while group := list(islice(images, READ_AT_ONCE)):
        yield prepared(group)


def record(outcome: Outcome, writer: ImagesWriter, findings: Findings) -> None:
    """Add an image to the artifact, or to its list of skipped images."""
    if outcome.image is None:
        writer.skip(outcome.path, outcome.reason or "", is_loss=outcome.is_loss)
        return
    writer.add(outcome.image)
    findings.add(outcome)  # afterwards: what is saved in `add` does not count this image


@dataclass(frozen=True)
class Reading:
    """How images are decoded and packed."""

    channels: int
    shorter_side: int | None
    deep: DeepRule
    pages: Pages | None
    packing: Packing
    originals: Path | None
    """The folder that paths are relative to; None if the images come from no files."""

    def all_of(self, images: list[SourceImage]) -> list[Outcome]:
        """Decode and pack a group of images."""
        return [self._outcome_of(image) for image in images]

    def _outcome_of(self, image: SourceImage) -> Outcome:
        try:
            # Without packing, later stages open the original by its path in the index.
            if self.packing.encoding == "none" and self.originals:
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
            packed = self.packing.stored(decoded.pixels_HWC)
            colour_copy = self.packing.colour_copy(decoded.pixels_HWC)
        except LeftOutError as error:
            return Outcome(image.path, reason=str(error), is_loss=False)
        except (OSError, UnreadableImageError) as error:
            if is_shortage(error):  # memory or disk ran out, so the image itself may be good
                raise
            return Outcome(image.path, reason=str(error))
        height, width = decoded.pixels_HWC.shape[:2]
        packed_image = PackedImage(
            image.path,
            image.label,
            width=decoded.width,
            height=decoded.height,
            format=decoded.format,
            packed_height=height,
            packed_width=width,
            packed=packed,
            colour_copy=colour_copy,
        )
        return Outcome(
            image.path,
            packed_image,
            num_pages=decoded.num_pages,
            highest=decoded.highest,
            is_deep=decoded.is_deep,
        )
