"""Copy the packed pixels of many images at once, with little work for each image.

Threads that read images and the one that starts the work of a GPU take turns in Python, so what
counts is the time for which each image holds Python's lock: copies of memory release it.

Suffixes: N images, B images of a call, R runs of images that follow each other on disk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.checksum import checksum_of
from deepcluster_core.artifacts.image_layout import ImageLayout
from deepcluster_core.artifacts.pixel_parts import BATCH_ROWS, PixelParts, Pixels
from deepcluster_core.errors import ArtifactError


@dataclass(frozen=True)
class _Places:
    """Where each image is, for all images whose record batch was read: 20 bytes an image.

    Entries of other images are undefined. ImageNet needs 26 MB.
    """

    is_known: NDArray[np.bool_]
    """For each record batch, whether its entries are filled in."""
    start_N: NDArray[np.int64]
    """Position of the first byte in the data of its record batch."""
    height_N: NDArray[np.int32]
    width_N: NDArray[np.int32]
    crc32c_N: NDArray[np.uint32]


class PackedPixels:
    """The packed bytes of an images artifact whose encoding is the pixels themselves.

    Reading is thread-safe.
    """

    def __init__(self, parts: PixelParts, num_images: int, channels: int) -> None:
        """Read nothing yet.

        Args:
            parts: the files of the artifact.
            num_images: N.
            channels: number of channels of each image.
        """
        self._parts = parts
        self._channels = channels
        self._places = _Places(
            is_known=np.zeros(-(-num_images // BATCH_ROWS), np.bool_),
            start_N=np.empty(num_images, np.int64),
            height_N=np.empty(num_images, np.int32),
            width_N=np.empty(num_images, np.int32),
            crc32c_N=np.empty(num_images, np.uint32),
        )

    def copy(
        self,
        image_id_B: NDArray[np.int64],
        allocate: Callable[[int], Pixels],
        *,
        is_verified: bool,
    ) -> ImageLayout:
        """Copy the pixels of images, one after another, into one array.

        Args:
            image_id_B: the images, in any order.
            allocate: called once with the number of bytes; returns an array of as many uint8.
            is_verified: whether the checksum of each image is compared.

        Raises:
            ArtifactError: an image is damaged.
        """
        places = self._places
        batch_B = image_id_B // BATCH_ROWS
        unknown_B = batch_B[~places.is_known[batch_B]]
        for number in np.unique(unknown_B).tolist():
            self._look_up(number)
        height_B = places.height_N[image_id_B].astype(np.int64)
        width_B = places.width_N[image_id_B].astype(np.int64)
        length_B = height_B * width_B * self._channels
        end_B = np.cumsum(length_B)
        offset_B = end_B - length_B
        into_X = allocate(int(length_B.sum()))
        source_B = places.start_N[image_id_B]
        self._copy_runs(batch_B, source_B, length_B, offset_B, into_X)
        if is_verified:
            self._verify(image_id_B, offset_B, end_B, into_X)
        return ImageLayout(offset_B, height_B, width_B)

    def _look_up(self, number: int) -> None:
        """Fill in the places of the images of a record batch. Two threads may do the same at once.

        Raises:
            ArtifactError: sizes and positions of its images contradict each other.
        """
        batch = self._parts.batch(number)
        first = number * BATCH_ROWS
        rows = slice(first, first + len(batch.height_B))
        height_B = batch.height_B.astype(np.int64)
        length_B = height_B * batch.width_B * self._channels
        wrong_B = (np.diff(batch.offset_B) != length_B) | (batch.offset_B[:-1] < 0)
        wrong_B |= batch.offset_B[1:] > len(batch.data)
        if wrong_B.any():
            image_id = first + int(wrong_B.argmax())
            raise self._parts.damaged(image_id, "its size and its number of bytes disagree")
        places = self._places
        places.start_N[rows] = batch.offset_B[:-1]
        places.height_N[rows] = batch.height_B
        places.width_N[rows] = batch.width_B
        places.crc32c_N[rows] = batch.crc32c_B
        places.is_known[number] = True  # last, because other threads look at it

    def _copy_runs(
        self,
        batch_B: NDArray[np.int64],
        source_B: NDArray[np.int64],
        length_B: NDArray[np.int64],
        offset_B: NDArray[np.int64],
        into_X: Pixels,
    ) -> None:
        """Copy images; those that follow each other on disk as well are copied at once."""
        begins_B = np.ones(len(batch_B), np.bool_)
        begins_B[1:] = batch_B[1:] != batch_B[:-1]
        begins_B[1:] |= source_B[1:] != source_B[:-1] + length_B[:-1]
        first_R = np.flatnonzero(begins_B)
        length_R = np.add.reduceat(length_B, first_R) if len(first_R) else length_B
        sources = source_B[first_R].tolist()
        targets = offset_B[first_R].tolist()
        lengths = length_R.tolist()
        data = self._parts.data_of(batch_B[first_R].tolist())
        for bytes_X, source, target, length in zip(data, sources, targets, lengths, strict=True):
            into_X[target : target + length] = bytes_X[source : source + length]

    def _verify(
        self,
        image_id_B: NDArray[np.int64],
        offset_B: NDArray[np.int64],
        end_B: NDArray[np.int64],
        copied_X: Pixels,
    ) -> None:
        """Compare the checksum of each image with that of its copy, which is in the cache."""
        places = self._places
        for image_id, start, end in zip(
            image_id_B.tolist(), offset_B.tolist(), end_B.tolist(), strict=True
        ):
            height, width = int(places.height_N[image_id]), int(places.width_N[image_id])
            if checksum_of(height, width, copied_X[start:end]) != places.crc32c_N[image_id]:
                raise self._damaged(image_id)

    def _damaged(self, image_id: int) -> ArtifactError:
        return self._parts.damaged(image_id, "its checksum differs")
