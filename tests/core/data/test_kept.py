"""Pictures that are decoded once, as long as they fit."""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.kept import Kept


def test_kept__reads_again_only_what_does_not_fit() -> None:
    asked: list[int] = []

    def read(row: int) -> NDArray[np.uint8]:
        asked.append(row)
        return np.full((2, 2, 3), row, np.uint8)

    kept = Kept(read, limit_bytes=2 * 12 + 11)  # two pictures of 12 bytes, and not a third
    for row in (0, 1, 2, 0, 1, 2):
        assert (kept(row) == row).all()

    assert asked == [0, 1, 2, 2]
