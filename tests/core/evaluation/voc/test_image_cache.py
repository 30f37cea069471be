"""Images are decoded once, as long as they fit into the cache."""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.evaluation.voc.image_cache import ImageCache


def test_image_cache__reads_again_only_what_does_not_fit() -> None:
    rows_read: list[int] = []

    def read(row: int) -> NDArray[np.uint8]:
        rows_read.append(row)
        return np.full((2, 2, 3), row, np.uint8)

    cache = ImageCache(read, limit_bytes=2 * 12 + 11)  # two images of 12 bytes, and not a third
    for row in (0, 1, 2, 0, 1, 2):
        assert (cache(row) == row).all()

    assert rows_read == [0, 1, 2, 2]
