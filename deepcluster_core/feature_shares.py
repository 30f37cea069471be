"""Divide the work of extracting features among ranks, and between attempts.

Suffixes: B images of a batch, D values of a feature, S shards.
"""

import math
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.features import Features
from deepcluster_core.ranks import Ranks, own_rows

MEETING_IMAGES = 2048
"""Images of a rank between two meetings. A rank waits for others only as long as these take, so
that ranks of different speed or with different shares stay within the time limit of a call, and the
end of a rank is noticed soon."""


class FeatureShare:
    """The shards of a features array that one rank writes, and the batches it computes for them.

    All ranks and all attempts form the same batches, counted from the first image on, because the
    last bits of a feature can depend on the batch that it is computed in. A rank computes each
    batch that holds a row it has to write, and drops the other rows of that batch. So two ranks
    compute a batch in which the share of one ends and that of the other begins.
    """

    def __init__(self, array: Features, ranks: Ranks, *, batch_size: int) -> None:
        """Look for the shards that are on disk already, and divide the others among the ranks.

        Args:
            array: the array to write.
            ranks: the ranks that share the work; all of them call this.
            batch_size: images in a batch; the last batch of all may have fewer.
        """
        # Each rank checks some shards, whoever wrote them.
        rows = own_rows(array.num_images, ranks, unit=array.shard_rows)
        end = math.ceil(rows.stop / array.shard_rows)
        checked = range(rows.start // array.shard_rows, end)
        missing_here = array.missing(checked)
        # The missing shards may lie in the part of one rank, so they are divided anew.
        found = ranks.gather(missing_here, "missing shards")
        missing = ranks.on_first(lambda: list(chain(*(found or []))), "all missing shards")
        own = own_rows(len(missing), ranks, unit=1)
        self.missing = missing[own.start : own.stop]
        """Numbers of the shards that this rank has to write, increasing."""
        self.shards = sorted({*checked}.difference(missing_here).union(self.missing))
        """Numbers of the shards that this rank has checked or has to write."""
        self._array = array
        self._ranks = ranks
        self._batch_size = batch_size
        self._num_missing = _num_rows(array, missing)
        # The first rank has the fewest shards, and the last one the most.
        largest_share = math.ceil(len(missing) / ranks.size) * array.shard_rows
        self._num_meetings = largest_share // MEETING_IMAGES

    @property
    def batches(self) -> list[int]:
        """Numbers of the batches that hold rows of missing shards, increasing."""
        numbers: set[int] = set()
        for rows in map(self._array.rows_of, self.missing):
            last = (rows.stop - 1) // self._batch_size
            numbers.update(range(rows.start // self._batch_size, last + 1))
        return sorted(numbers)

    def first_rows(self) -> list[int]:
        """Return the first row of each of `batches`."""
        return [number * self._batch_size for number in self.batches]

    def rows_to_write(
        self, features: Iterator[NDArray[np.float32]], report: Callable[[int], None]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of the missing shards, in order.

        All ranks have to read this iterator to its end, because they meet from time to time.

        Args:
            features: the features (B, D) of all `batches`.
            report: called after each batch with the number of images that are done. It is an
                estimate for all ranks, which assumes that they are as far as this one.
        """
        array = self._array
        is_missing_S = np.zeros(array.num_shards, dtype=np.bool_)
        is_missing_S[self.missing] = True
        num_rows = _num_rows(array, self.missing)
        num_done_before = array.num_images - self._num_missing
        num_done = num_meetings = 0
        for number, feature_BD in zip(self.batches, features, strict=True):
            start = number * self._batch_size
            row_B = np.arange(start, start + len(feature_BD))
            is_wanted_B = is_missing_S[row_B // array.shard_rows]
            # Most batches are wanted as a whole, and need not be copied.
            yield feature_BD if is_wanted_B.all() else feature_BD[is_wanted_B]
            num_done += int(is_wanted_B.sum())
            report(num_done_before + num_done * self._num_missing // num_rows)
            num_meetings = self._meet(num_meetings, self._num_meetings * num_done // num_rows)
        # Also those of a rank that has nothing to do.
        self._meet(num_meetings, self._num_meetings)

    def _meet(self, num_meetings: int, until: int) -> int:
        """Take part in the meetings up to a number; return that number."""
        for _ in range(num_meetings, until):
            self._ranks.barrier("features")
        return until


def _num_rows(array: Features, shards: list[int]) -> int:
    return sum(len(array.rows_of(number)) for number in shards)
