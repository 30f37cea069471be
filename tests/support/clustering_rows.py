"""Rows of length 1 to cluster. Suffixes: N rows, Q dimensions, K groups."""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.clustering.rows import Floats


def unit_rows(num: int, width: int = 8, *, seed: int = 0, length: float = 1.0) -> Floats:
    rows_NQ = np.random.default_rng(seed).standard_normal((num, width))
    rows_NQ *= length / np.linalg.norm(rows_NQ, axis=1, keepdims=True)
    return rows_NQ.astype(np.float32)


def blobs(num: int = 2000, *, k: int, noise: float) -> tuple[Floats, NDArray[np.int64]]:
    """Unit rows around `k` directions, and which direction each row belongs to."""
    generator = np.random.default_rng(5)
    true_N = generator.integers(k, size=num)
    noise_NQ = noise * generator.standard_normal((num, 16)).astype(np.float32)
    rows_NQ = unit_rows(k, 16, seed=6)[true_N] + noise_NQ
    return rows_NQ / np.linalg.norm(rows_NQ, axis=1, keepdims=True), true_N
