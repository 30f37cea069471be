import numpy as np
import pytest

from benchmarks.measures import neighbour_accuracy
from benchmarks.synthetic import random_features


def test_neighbour_accuracy__directions_count_not_lengths() -> None:
    generator = np.random.default_rng(0)
    truth_N = generator.integers(3, size=300)
    rows_ND = np.eye(3, 8, dtype=np.float32)[truth_N] * generator.uniform(1, 100, size=(300, 1))

    assert neighbour_accuracy(rows_ND.astype(np.float16), truth_N) == 1


def test_neighbour_accuracy__features_without_labels_guess() -> None:
    generator = np.random.default_rng(0)
    rows_ND = generator.normal(size=(2000, 8))

    found = neighbour_accuracy(rows_ND, generator.integers(4, size=2000))

    assert found == pytest.approx(0.25, abs=0.04)  # 1,000 votes: three standard deviations


def test_random_features__spectrum_decays_and_leaves_no_direction_empty() -> None:
    rows_ND = random_features(2000, 64)

    values_D = np.linalg.eigvalsh(np.cov(rows_ND.T))

    assert rows_ND.dtype == np.float32
    assert values_D[-1] > 3 * values_D[-8] > 30 * values_D[0] > 0
