from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.measures import (
    clustering_agreement,
    held_out_linear_accuracy,
    held_out_neighbour_accuracy,
    kendall_tau,
)

N, CLASSES = 400, 4
Accuracy = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def labelled_rows(*, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows around a direction for each class, their classes, and a quarter held out."""
    generator = np.random.default_rng(0)
    truth_N = generator.integers(CLASSES, size=N)
    rows_ND = np.eye(CLASSES, 8)[truth_N] + spread * generator.normal(size=(N, 8))
    return rows_ND.astype(np.float32), truth_N, generator.random(N) < 0.25


@pytest.mark.parametrize("accuracy", [held_out_neighbour_accuracy, held_out_linear_accuracy])
def test_held_out_accuracy__learns_from_the_other_rows_alone(accuracy: Accuracy) -> None:
    rows_ND, truth_N, held_out_N = labelled_rows(spread=0.1)
    # Swap two classes where the labels may be learnt: every row held out of them is now wrong.
    swapped_N = truth_N.copy()
    swapped_N[~held_out_N & (truth_N == 0)] = 1
    swapped_N[~held_out_N & (truth_N == 1)] = 0
    others = (truth_N[held_out_N] > 1).mean()

    assert accuracy(rows_ND, truth_N, held_out_N) == 1
    assert accuracy(rows_ND, swapped_N, held_out_N) == pytest.approx(others)


@pytest.mark.parametrize("accuracy", [held_out_neighbour_accuracy, held_out_linear_accuracy])
def test_held_out_accuracy__features_without_labels_guess(accuracy: Accuracy) -> None:
    generator = np.random.default_rng(1)
    rows_ND = generator.normal(size=(4000, 8))
    truth_N = generator.integers(CLASSES, size=4000)

    found = accuracy(rows_ND, truth_N, np.arange(4000) % 4 == 0)

    assert found == pytest.approx(1 / CLASSES, abs=0.05)  # 1,000 rows: 3.6 standard deviations


def test_held_out_linear_accuracy__ignores_scale_and_constant_dimensions() -> None:
    rows_ND, truth_N, held_out_N = labelled_rows(spread=0.4)
    scaled_ND = np.hstack([rows_ND * 1000 - 5, np.full((N, 1), 7.0)])

    found = held_out_linear_accuracy(scaled_ND, truth_N, held_out_N)

    expected = held_out_linear_accuracy(rows_ND, truth_N, held_out_N)
    assert found == pytest.approx(expected, abs=0.02)


def test_clustering_agreement__is_perfect_for_separate_classes_whatever_their_ids() -> None:
    rows_ND, truth_N, _ = labelled_rows(spread=0.02)

    nmi, accuracy = clustering_agreement(rows_ND, truth_N)

    assert nmi == pytest.approx(1)
    assert accuracy == 1


def test_clustering_agreement__matches_each_cluster_with_one_label() -> None:
    # Two labels in the same place: only one of them can own a cluster there.
    rows_ND, truth_N, _ = labelled_rows(spread=0.02)
    rows_ND[truth_N <= 1] = np.eye(1, 8)

    _, accuracy = clustering_agreement(rows_ND, truth_N)

    shares = np.bincount(truth_N) / N
    # The fourth cluster can take at most a part of one of the other labels.
    assert 0.5 < accuracy <= 1 - min(shares[0], shares[1])


@pytest.mark.parametrize(
    ("criterion", "judged", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [40, 30, 20, 10], -1.0),
        ([1, 2, 3, 4], [20, 10, 30, 40], 4 / 6),  # one of six pairs is out of order
        ([1, 2], [1, 2], None),
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_kendall_tau__counts_pairs(
    criterion: list[float], judged: list[float], tau: float | None
) -> None:
    found = kendall_tau(criterion, judged)

    if tau is None:
        assert found is None
    else:
        assert found == pytest.approx(tau)
