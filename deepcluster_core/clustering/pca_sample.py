"""A random sample of the rows, which the PCA is fitted to in place of all rows.

Suffixes: N rows, S sampled rows, D features, B block, C chosen rows of a block.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.features import Features
from deepcluster_core.clustering.rows import RowIds
from deepcluster_core.errors import FeatureError


def sample_ids(num_rows: int, size: int | None, *, seed: int, epoch: int | None) -> RowIds | None:
    """Return id_S, the ids of a random sample of all rows, ascending; None if it would be all.

    They depend on the arguments alone, so that all ranks draw the same rows.

    Args:
        num_rows: N, the number of all rows.
        size: S; None for all rows.
        seed: the run's seed.
        epoch: each epoch has a sample of its own.
    """
    if size is None or size >= num_rows:
        return None
    generator = seeding.numpy_generator(seed, epoch or 0, "cluster", "pca")
    return np.sort(generator.choice(num_rows, size, replace=False, shuffle=False))


def sampled_blocks(features: Features, id_S: RowIds) -> Iterator[NDArray[np.floating]]:
    """Yield the features of some images, of the first view if there are several.

    All rows from the first to the last image are read: a sample of one percent leaves out less than
    a third of the chunks of AlexNet's features.

    Args:
        features: the features of all images.
        id_S: image_ids, ascending.

    Raises:
        ArtifactError: rows are damaged.
        FeatureError: a sampled row is not finite.
    """
    if len(id_S) == 0:
        return
    start = int(id_S[0])
    for block_BD in features.blocks(rows=range(start, int(id_S[-1]) + 1), view=0):
        end = start + len(block_BD)
        first, last = np.searchsorted(id_S, (start, end))
        id_C = id_S[first:last]
        chosen_CD = block_BD[id_C - start]
        check_finite(chosen_CD, id_C)
        yield chosen_CD
        start = end


def check_finite(rows_CD: NDArray[np.floating], id_C: RowIds) -> None:
    """Raise FeatureError if a row is not finite, with the image_id of the first such row."""
    bad_C = ~np.isfinite(rows_CD).all(axis=1)
    if bad_C.any():
        raise FeatureError(
            f"image_id {id_C[bad_C.argmax()]}: its feature is not finite.\n"
            "  Cause: training diverged, or features overflowed the 65504 that float16 can hold.\n"
            "  Fix:   continue from an earlier checkpoint with a smaller learning rate, or store "
            "the features as float32."
        )
