"""Divide the work of extracting features among ranks, and between attempts.

Suffixes: B images of a batch, D values of a feature, S shards.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.features import Features
from deepcluster_core.ranks import Ranks, own_rows


class FeatureShare:
    """The shards of a features array that one rank writes, and the batches it computes for them.

    All ranks and all attempts form the same batches, counted from the first image on, because the
    last bits of a feature can depend on the batch that it is computed in. A rank computes each
    batch that holds a row it has to write, and drops the other rows of that batch. So two ranks
    compute a batch in which the share of one ends and that of the other begins.
    """

    def __init__(self, array: Features, ranks: Ranks, *, batch_size: int) -> None:
        """Look for the shards that are on disk already, whoever wrote them.

        Args:
            array: the array to write.
            ranks: the ranks that share the work.
            batch_size: images in a batch; the last batch of all may have fewer.
        """
        rows = own_rows(array.num_images, ranks, unit=array.shard_rows)
        end = math.ceil(rows.stop / array.shard_rows)
        self.shards = range(rows.start // array.shard_rows, end)
        """Numbers of the rank's shards."""
        self.missing = array.missing(self.shards)
        """Numbers of those that are not on disk yet, increasing."""
        self._num_rows = len(rows)
        self._array = array
        self._batch_size = batch_size

    @property
    def batches(self) -> list[int]:
        """Numbers of the batches that hold rows of missing shards, increasing."""
        numbers: set[int] = set()
        for rows in map(self._array.rows_of, self.missing):
            last = (rows.stop - 1) // self._batch_size
            numbers.update(range(rows.start // self._batch_size, last + 1))
        return sorted(numbers)

    def rows_to_write(
        self, features: Iterator[NDArray[np.float32]], report: Callable[[int], None]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of the missing shards, in order.

        Args:
            features: the features (B, D) of all `batches`.
            report: called after each batch with the number of images that are done. It is an
                estimate for all ranks, which assumes that they are as far as this one.
        """
        is_missing_S = np.zeros(self._array.num_shards, dtype=np.bool_)
        is_missing_S[self.missing] = True
        num_missing = sum(len(self._array.rows_of(number)) for number in self.missing)
        num_done = self._num_rows - num_missing
        for number, feature_BD in zip(self.batches, features, strict=True):
            start = number * self._batch_size
            row_B = np.arange(start, start + len(feature_BD))
            is_wanted_B = is_missing_S[row_B // self._array.shard_rows]
            # Most batches are wanted as a whole, and need not be copied.
            yield feature_BD if is_wanted_B.all() else feature_BD[is_wanted_B]
            num_done += int(is_wanted_B.sum())
            report(num_done * self._array.num_images // self._num_rows)
