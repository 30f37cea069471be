"""Whole photographs, at one length of their longer side. Suffixes: H height, W width, C channels.

Where the pipeline trains and clusters on square crops, these keep all that they show.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.data.decode import UnreadableImageError, decode
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.resize import Pixels, resize
from deepcluster_core.data.sources.base import read_file


@dataclass(frozen=True)
class Photograph:
    """An image, upright and resized."""

    pixels_HWC: Pixels
    scale: float
    """Pixels of it for a pixel of the original."""

    def part(self, box: tuple[float, float, float, float] | None) -> Pixels:
        """Return what lies in a box, at this scale: it is not resized again.

        Args:
            box: left, top, right, bottom in pixels of the original; what lies outside of the image
                is left out. None: all of it.
        """
        if box is None:
            return self.pixels_HWC
        left, top, right, bottom = (max(0, round(side * self.scale)) for side in box)
        return self.pixels_HWC[top:bottom, left:right]


def read_photograph(path: Path, *, channels: int, long_side: int) -> Photograph:
    """Read an image and bring its longer side to `long_side` pixels; smaller ones are enlarged.

    Args:
        path: of the file.
        channels: C, 1 or 3.
        long_side: pixels; the shorter side keeps the aspect, rounded.

    Raises:
        UnreadableImageError: it cannot be read; the message is the reason.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise UnreadableImageError(str(error)) from error
    pixels_HWC = decode(data, channels=channels, shorter_side=None).pixels_HWC
    height, width = pixels_HWC.shape[:2]
    scale = long_side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return Photograph(resize(pixels_HWC, size), scale)


@dataclass(frozen=True)
class Album:
    """Images of a folder, to be read at one size."""

    root: Path
    names: Sequence[str]
    """Paths below `root`."""
    channels: int
    long_side: int
    """See `read_photograph`."""

    def __len__(self) -> int:
        """Return how many images there are, readable or not."""
        return len(self.names)

    def read(self, number: int) -> Photograph:
        """Return an image.

        Raises:
            UnreadableImageError: see `read_photograph`.
        """
        path = self.root / self.names[number]
        return read_photograph(path, channels=self.channels, long_side=self.long_side)

    def read_all(self, *, workers: int) -> Iterator[Photograph | UnreadableImageError]:
        """Yield every image in order, or why it cannot be read; a few are held at a time."""
        return ordered_map(self._try, range(len(self)), workers=workers)

    def _try(self, number: int) -> Photograph | UnreadableImageError:
        try:
            return self.read(number)
        except UnreadableImageError as error:
            return error
