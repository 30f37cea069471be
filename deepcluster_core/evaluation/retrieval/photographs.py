"""Whole photographs, with equally long longer sides. Suffixes: H height, W width, C channels.

In contrast to the square crops of training and clustering, nothing of an image is cut away.
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
    """Ratio of the resized length to the original length."""

    def part(self, box: tuple[float, float, float, float] | None) -> Pixels:
        """Return the part of the image that lies in a box, at the scale of the image.

        Args:
            box: left, top, right and bottom in pixels of the original, clipped to the image. None
                returns the whole image.
        """
        if box is None:
            return self.pixels_HWC
        # Slices clip at the right and at the bottom; negative starts would count from the end.
        scaled = [round(side * self.scale) for side in box]
        left, top, right, bottom = (max(0, side) for side in scaled)
        return self.pixels_HWC[top:bottom, left:right]


def read_photograph(path: Path, *, channels: int, long_side: int) -> Photograph:
    """Read an image and resize it to a longer side of `long_side`; small images are enlarged.

    Args:
        path: the image file.
        channels: number of channels C, 1 or 3.
        long_side: length of the longer side, pixels. The shorter side keeps the aspect ratio and is
            rounded.

    Raises:
        UnreadableImageError: the image cannot be read; the message is the reason.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise UnreadableImageError(str(error)) from error
    pixels_HWC = decode(data, channels=channels, shorter_side=None).pixels_HWC
    height, width = pixels_HWC.shape[:2]
    scale = long_side / max(height, width)
    # A very long and narrow image keeps at least one pixel across.
    new_height = max(1, round(height * scale))
    new_width = max(1, round(width * scale))
    return Photograph(resize(pixels_HWC, (new_height, new_width)), scale)


@dataclass(frozen=True)
class Album:
    """Images of a folder, read with equally long longer sides."""

    root: Path
    names: Sequence[str]
    """Paths below `root`."""
    channels: int
    long_side: int
    """See `read_photograph`."""

    def __len__(self) -> int:
        """Return the number of images, including those that cannot be read."""
        return len(self.names)

    def read(self, number: int) -> Photograph:
        """Return an image.

        Raises:
            UnreadableImageError: see `read_photograph`.
        """
        path = self.root / self.names[number]
        return read_photograph(path, channels=self.channels, long_side=self.long_side)

    def read_all(self, *, workers: int) -> Iterator[Photograph | UnreadableImageError]:
        """Yield every image in order, or the error if it cannot be read; few are held at a time."""
        return ordered_map(self._try, range(len(self)), workers=workers)

    def _try(self, number: int) -> Photograph | UnreadableImageError:
        try:
            return self.read(number)
        except UnreadableImageError as error:
            return error
