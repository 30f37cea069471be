"""The most similar images of each image.

Suffixes: N images, M neighbours, Q dimensions, B block.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.progress import Progress, silent

Floats = NDArray[np.float32]
BLOCK_ROWS = 4096
"""Images searched at once, for the progress alone."""
FEW_ROWS = 512
"""Images searched at once without faiss: 41 MB of similarities for 20,000 images."""


@dataclass(frozen=True)
class Neighbours:
    """The most similar other images of each image, the most similar first."""

    image_id_NM: NDArray[np.int32]
    similarity_NM: Floats
    """Cosine of the angle between the features, -1 to 1."""


class NeighbourSearch:
    """Finds the most similar other images of any of the images, by exact search."""

    def __init__(self, rows_NQ: Floats, *, device: str = "cpu") -> None:
        """Keep the features in an index.

        Args:
            rows_NQ: features of length 1, or 0; at least two rows.
            device: a torch device.
        """
        # Imports torch: the report looks for neighbours without it.
        from deepcluster_core.clustering.faiss_index import exact_index  # noqa: PLC0415

        self._rows_NQ = rows_NQ
        self._is_zero_N = (rows_NQ == 0).all(axis=1, keepdims=True)[:, 0]
        self._index = exact_index(rows_NQ.shape[1], device=device)
        self._index.add(rows_NQ)

    def neighbours_of(self, image_id_B: NDArray[np.integer], count: int) -> Neighbours:
        """Return the `count` most similar other images of some images, or all if there are fewer.

        The time grows with the number of images searched for, times that of all images.
        """
        count = min(count, len(self._rows_NQ) - 1)
        squared_BM, found_BM = self._index.search(self._rows_NQ[image_id_B], count + 1)
        is_other_BM = _others(found_BM, image_id_B)
        image_id_BM = found_BM[is_other_BM].reshape(-1, count).astype(np.int32)
        # Of two vectors of length 1, the squared distance is 2 - 2 cos.
        similarity_BM = 1 - squared_BM[is_other_BM].reshape(-1, count) / 2
        # A vector of zeros has no direction, and is similar to nothing.
        is_zero_BM = self._is_zero_N[image_id_BM] | self._is_zero_N[image_id_B][:, None]
        similarity_BM[is_zero_BM] = 0
        return Neighbours(image_id_BM, np.clip(similarity_BM, -1, 1).astype(np.float32))


def nearest_neighbours(
    rows_NQ: Floats, count: int, *, device: str = "cpu", progress: Progress = silent
) -> Neighbours:
    """Return the `count` most similar other images of each image, by exact search.

    The time grows with the square of N.

    Args:
        rows_NQ: features of length 1, or 0; at least two rows.
        count: M; if there are fewer other images, it is their number.
        device: a torch device.
        progress: receives the number of images searched after each block.
    """
    num_images = len(rows_NQ)
    count = min(count, num_images - 1)
    search = NeighbourSearch(rows_NQ, device=device)
    image_id_NM = np.empty((num_images, count), np.int32)
    similarity_NM = np.empty((num_images, count), np.float32)
    for start in range(0, num_images, BLOCK_ROWS):
        here = slice(start, min(start + BLOCK_ROWS, num_images))
        found = search.neighbours_of(np.arange(here.start, here.stop), count)
        image_id_NM[here] = found.image_id_NM
        similarity_NM[here] = found.similarity_NM
        progress(here.stop, num_images)
    return Neighbours(image_id_NM, similarity_NM)


def few_nearest_neighbours(rows_NQ: Floats, count: int) -> Neighbours:
    """Return the same as `nearest_neighbours`, up to rounding and ties, without faiss and torch.

    It takes twice as long or more, and starts seconds earlier. At least two rows are needed.
    """
    num_images = len(rows_NQ)
    count = min(count, num_images - 1)
    image_id_NM = np.empty((num_images, count), np.int32)
    similarity_NM = np.empty((num_images, count), np.float32)
    for start in range(0, num_images, FEW_ROWS):
        here = slice(start, min(start + FEW_ROWS, num_images))
        cosine_BN = rows_NQ[here] @ rows_NQ.T
        own_B = np.arange(here.start, here.stop)
        cosine_BN[own_B - start, own_B] = -2  # less than any
        found_BM = np.argpartition(-cosine_BN, count - 1, axis=1)[:, :count]
        found_BM.sort(axis=1)
        similarity_BM = np.take_along_axis(cosine_BN, found_BM, axis=1)
        order_BM = np.argsort(-similarity_BM, axis=1, kind="stable")
        image_id_NM[here] = np.take_along_axis(found_BM, order_BM, axis=1)
        similarity_NM[here] = np.take_along_axis(similarity_BM, order_BM, axis=1)
    return Neighbours(image_id_NM, np.clip(similarity_NM, -1, 1))


def _others(found_BM: NDArray[np.int64], own_B: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which results to keep: all but the image itself.

    Among more than M copies an image may not find itself; then the last result is dropped.
    """
    is_other_BM = found_BM != own_B[:, None]
    is_other_BM[is_other_BM.all(axis=1), -1] = False
    return is_other_BM
