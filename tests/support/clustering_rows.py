"""Rows of length 1 to cluster. Suffixes: N rows, Q dimensions, K groups."""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.clustering.rows import Floats


def unit_rows(num: int, width: int = 8, *, seed: int = 0, length: float = 1.0) -> Floats:
    """Return rows of random directions and equal length."""
    generator = np.random.default_rng(seed)
    rows_NQ = generator.standard_normal((num, width))
    rows_NQ *= length / np.linalg.norm(rows_NQ, axis=1, keepdims=True)
    return rows_NQ.astype(np.float32)


def blobs(num: int = 2000, *, k: int, noise: float) -> tuple[Floats, NDArray[np.int64]]:
    """Return unit rows around `k` directions, and the direction that each row belongs to."""
    generator = np.random.default_rng(5)
    true_N = generator.integers(k, size=num)
    noise_NQ = noise * generator.standard_normal((num, 16)).astype(np.float32)
    directions_KQ = unit_rows(k, 16, seed=6)
    rows_NQ = directions_KQ[true_N] + noise_NQ
    length_N1 = np.linalg.norm(rows_NQ, axis=1, keepdims=True)
    return rows_NQ / length_N1, true_N
