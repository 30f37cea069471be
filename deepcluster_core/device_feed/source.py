"""Where a feed gets the pixels of images from. Suffix: B images of a batch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.image_layout import ImageLayout

if TYPE_CHECKING:
    from deepcluster_core.artifacts.images import Images

Pixels = NDArray[np.uint8]


class Source(Protocol):
    """Images by image_id, with equal numbers of channels. Reading is thread-safe."""

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
            allocate: called once with the number of bytes; returns an array of as many uint8. It
                may wait for memory, so call it as late as possible.
            is_verified: whether the checksum of each image is compared.

        Raises:
            ArtifactError: an image is damaged.
        """
        ...


def source_of(pictures: "Images") -> Source:
    """Return the source of an images artifact; without a copy of decoded pixels where it can be."""
    return pictures.packed_pixels() or DecodedImages(pictures)


class DecodedImages:
    """Images that are decoded first, each in the thread that asks for it."""

    def __init__(self, pictures: "Images") -> None:
        self._pictures = pictures

    def copy(
        self,
        image_id_B: NDArray[np.int64],
        allocate: Callable[[int], Pixels],
        *,
        is_verified: bool,
    ) -> ImageLayout:
        """Decode images and copy their pixels, see `Source.copy`."""
        read = self._pictures.verified if is_verified else self._pictures.__getitem__
        return _copied([read(image_id) for image_id in image_id_B.tolist()], allocate)


class GivenImages:
    """Images in main memory, each of which is forgotten when it is copied."""

    def __init__(self) -> None:
        self._images: dict[int, Pixels] = {}
        self._num_given = 0

    def give(self, images: Sequence[Pixels]) -> NDArray[np.int64]:
        """Take images (H, W, C), and return the image_ids that `copy` knows them by."""
        id_B = np.arange(self._num_given, self._num_given + len(images))
        self._num_given += len(images)
        self._images |= zip(id_B.tolist(), images, strict=True)
        return id_B

    def copy(
        self,
        image_id_B: NDArray[np.int64],
        allocate: Callable[[int], Pixels],
        *,
        is_verified: bool,
    ) -> ImageLayout:
        """Copy the pixels of images that have not been copied yet; they have no checksums."""
        assert not is_verified
        return _copied([self._images.pop(image_id) for image_id in image_id_B.tolist()], allocate)


def _copied(images: Sequence[Pixels], allocate: Callable[[int], Pixels]) -> ImageLayout:
    """Copy images, one after another, into one array."""
    size_B = np.array([image.size for image in images], np.int64)
    end_B = np.cumsum(size_B)
    into_X = allocate(int(size_B.sum()))
    for image_HWC, start, end in zip(images, end_B - size_B, end_B, strict=True):
        into_X[start:end].reshape(image_HWC.shape)[:] = image_HWC
    return ImageLayout(
        offset_B=end_B - size_B,
        height_B=np.array([image.shape[0] for image in images], np.int64),
        width_B=np.array([image.shape[1] for image in images], np.int64),
    )
