"""A cache of decoded images in main memory."""

from collections.abc import Callable
from threading import Lock

from deepcluster_core.data.decode import Pixels


class ImageCache:
    """A cache in front of a function that reads images. Safe to call from many threads.

    Decoding a JPEG of 500 x 375 pixels takes 1.9 ms on one core, cropping it 0.2 ms; an evaluation
    that trains on VOC for 80,000 steps reads each of its 5,011 images 255 times.
    """

    def __init__(self, read: Callable[[int], Pixels], *, limit_bytes: int) -> None:
        """Start with an empty cache.

        Args:
            read: function that returns the image of a row, which must never change.
            limit_bytes: largest total size of cached pixels; other images are read each time.
        """
        self._read = read
        self._free_bytes = limit_bytes
        self._images: dict[int, Pixels] = {}
        self._lock = Lock()

    def __call__(self, row: int) -> Pixels:
        """Return the image of a row."""
        cached = self._images.get(row)
        if cached is not None:
            return cached
        image_HWC = self._read(row)
        # Another thread may have read the image meanwhile; it must be counted only once.
        with self._lock:
            if row not in self._images and image_HWC.nbytes <= self._free_bytes:
                self._free_bytes -= image_HWC.nbytes
                self._images[row] = image_HWC
        return image_HWC
