"""Suffixes: N images, K clusters."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

from deepcluster_core.metrics import (
    ami,
    ari,
    cluster_counts,
    cluster_sizes,
    entropy,
    expected_information,
    matched_accuracy,
    moved_fraction,
    nmi,
)

Ints = NDArray[np.integer]


def reference_nmi(a_N: Ints, b_N: Ints) -> float:
    with warnings.catch_warnings(action="ignore"):  # it suspects many classes to be a regression
        return normalized_mutual_info_score(a_N, b_N, average_method="geometric")


@st.composite
def labellings(draw: st.DrawFn) -> tuple[Ints, Ints]:
    """Two labellings of 1 to 60 images, with few or with far-flung labels."""
    num = draw(st.integers(1, 60))
    label = draw(st.sampled_from([st.integers(0, 4), st.integers(-(2**40), 2**40)]))
    pair = [draw(st.lists(label, min_size=num, max_size=num)) for _ in range(2)]
    return np.array(pair[0], dtype=np.int64), np.array(pair[1], dtype=np.int64)


@settings(deadline=None)
@given(labellings())
def test_nmi__equals_scikit_learn(pair: tuple[Ints, Ints]) -> None:
    # 1e-9: both sum logarithms in float64; near 0 the numerator cancels.
    assert nmi(*pair) == pytest.approx(reference_nmi(*pair), abs=1e-9)


def test_nmi__equals_scikit_learn_on_many_clusters() -> None:
    generator = np.random.default_rng(0)
    a_N = generator.integers(500, size=20_000).astype(np.int32)
    b_N = np.where(generator.random(20_000) < 0.4, a_N, generator.integers(500, size=20_000))
    assert nmi(a_N, b_N) == pytest.approx(reference_nmi(a_N, b_N), rel=1e-12)


def test_nmi__normalises_by_the_geometric_mean() -> None:
    # H(a) = ln 2, H(b) = ln 4, I = ln 2: geometric 1/sqrt(2), arithmetic 2/3.
    assert nmi(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 0], [7, 7, 7], 1.0),
        ([0, 0, 0], [0, 1, 2], 0.0),
        ([], [], 1.0),
        ([5], [6], 1.0),
        ([0, 0, 1, 1], [0, 1, 0, 1], 0.0),
        ([0, 1, 2, 2], [9, -4, 3, 3], 1.0),
    ],
)
def test_nmi__degenerate_labellings(a: list[int], b: list[int], expected: float) -> None:
    assert nmi(np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)) == expected


def test_nmi__mixes_the_dtypes_of_artifacts() -> None:
    # 255 * 256 overflows both dtypes unless the key is wider.
    a_N, b_N = np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.int16)
    assert nmi(a_N, b_N) == pytest.approx(1.0)


def test_nmi__refuses_different_lengths() -> None:
    with pytest.raises(ValueError, match="labels of 3 and of 2 images"):
        nmi(np.zeros(3, dtype=np.int64), np.zeros(2, dtype=np.int64))


@settings(deadline=None)
@given(labellings())
def test_ami_and_ari__equal_scikit_learn(pair: tuple[Ints, Ints]) -> None:
    num_a, num_b = (len(np.unique(labels_N)) for labels_N in pair)
    # scikit-learn computes (I - E) / (H - E) with E = H up to rounding here; by definition it is 1.
    if not num_a == num_b == len(pair[0]):
        with warnings.catch_warnings(action="ignore"):
            expected = adjusted_mutual_info_score(*pair)
        # 1e-7: near 0 / 0 the rounding of both is divided by a small number.
        assert ami(*pair) == pytest.approx(expected, abs=1e-7)
    with warnings.catch_warnings(action="ignore"):
        assert ari(*pair) == pytest.approx(adjusted_rand_score(*pair), abs=1e-12)


@pytest.mark.parametrize(("num_a", "num_b"), [(500, 10), (10, 500), (1, 40), (300, 300)])
def test_ami_and_ari__equal_scikit_learn_on_many_clusters(num_a: int, num_b: int) -> None:
    generator = np.random.default_rng(0)
    a_N = generator.zipf(1.5, size=6_000) % num_a  # some clusters are large, many small
    b_N = np.where(generator.random(6_000) < 0.4, a_N % num_b, generator.integers(num_b, size=6000))
    with warnings.catch_warnings(action="ignore"):
        assert ami(a_N, b_N) == pytest.approx(adjusted_mutual_info_score(a_N, b_N), abs=1e-9)
    assert ari(a_N, b_N) == pytest.approx(adjusted_rand_score(a_N, b_N), abs=1e-12)


def test_ami_and_ari__random_labels_score_0_where_their_nmi_does_not() -> None:
    generator = np.random.default_rng(0)
    a_N, b_N = generator.integers(100, size=(2, 1000))
    assert nmi(a_N, b_N) > 0.4
    assert ami(a_N, b_N) == pytest.approx(0, abs=0.02)
    assert ari(a_N, b_N) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("labels", [[], [3], [3, 3, 3], [0, 1, 2]])
def test_agreement__equal_labellings_without_structure_agree_fully(labels: list[int]) -> None:
    label_N = np.array(labels, dtype=np.int64)
    found = (ami(label_N, label_N), ari(label_N, label_N), matched_accuracy(label_N, label_N))
    assert found == (1, 1, 1)


def test_expected_information__is_the_mean_over_shuffled_labels() -> None:
    generator = np.random.default_rng(0)
    a_N, b_N = np.repeat(np.arange(4), [50, 30, 15, 5]), np.repeat(np.arange(3), [60, 30, 10])
    counts = (np.bincount(a_N), np.bincount(b_N))
    information: list[float] = []
    for _ in range(2000):
        scale = np.sqrt(entropy(counts[0]) * entropy(counts[1]))
        information.append(nmi(a_N, generator.permutation(b_N)) * scale)
    # 5 standard errors of the mean.
    error = 5 * np.std(information) / np.sqrt(2000)
    assert expected_information(*counts) == pytest.approx(np.mean(information), abs=error)


def test_expected_information__overlaps_far_from_the_mean_do_not_matter() -> None:
    # Two clusterings of 100 M images in halves: 50 M overlaps, of which a few thousand matter.
    halves_K = np.array([50_000_000, 50_000_000])
    # For large N, 2 N E[I] follows a chi-squared distribution with one degree of freedom.
    assert 2e8 * expected_information(halves_K, halves_K) == pytest.approx(1, rel=1e-3)


@settings(deadline=None)
@given(labellings())
def test_matched_accuracy__equals_the_dense_hungarian_matching(pair: tuple[Ints, Ints]) -> None:
    truth_N, cluster_N = (np.unique(labels_N, return_inverse=True)[1] for labels_N in pair)
    table_AB = np.zeros((truth_N.max() + 1, cluster_N.max() + 1))
    np.add.at(table_AB, (truth_N, cluster_N), 1)
    best = table_AB[linear_sum_assignment(table_AB, maximize=True)].sum()
    assert matched_accuracy(*pair) == pytest.approx(best / len(truth_N))


def test_matched_accuracy__counts_left_over_clusters_as_wrong() -> None:
    truth_N = np.repeat([0, 1], [6, 4])
    halves_N = np.array([7, 7, 7, 8, 8, 8, 9, 9, 9, 9])
    assert matched_accuracy(truth_N, halves_N) == pytest.approx(0.7)
    # The greedy choice, class 0 with cluster 7, would leave nothing for class 1: 3 of 7, not 4.
    assert matched_accuracy(
        np.array([0, 0, 0, 0, 0, 1, 1]), np.array([7, 7, 7, 8, 8, 7, 7])
    ) == pytest.approx(4 / 7)


def test_entropy__in_nats_without_empty_clusters() -> None:
    assert entropy(np.array([5, 0, 5, 5, 5])) == pytest.approx(np.log(4))
    assert entropy(np.array([0, 9])) == 0.0
    assert entropy(np.array([0, 0])) == 0.0


def test_moved_fraction__counts_images_that_left_the_bulk() -> None:
    previous_N = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    current_N = np.array([5, 5, 5, 3, 3, 3, 3, 3])  # 5 came from 0; 3 from 1, with two strangers
    assert moved_fraction(previous_N, current_N) == pytest.approx(2 / 8)


def test_moved_fraction__a_split_moves_nobody_and_a_merger_the_smaller_part() -> None:
    whole_N, halves_N = np.zeros(10, dtype=np.int64), np.repeat([0, 1], [7, 3])
    assert moved_fraction(whole_N, halves_N) == 0.0
    assert moved_fraction(halves_N, whole_N) == pytest.approx(0.3)


@settings(deadline=None)
@given(labellings(), st.permutations(range(5)))
def test_moved_fraction__ignores_the_names_of_clusters(
    pair: tuple[Ints, Ints], new_ids: list[int]
) -> None:
    previous_N, current_N = (np.abs(labels_N) % 5 for labels_N in pair)
    renamed = np.array(new_ids) * 1000 - 7
    fraction = moved_fraction(previous_N, current_N)
    assert moved_fraction(renamed[previous_N], current_N) == fraction
    assert moved_fraction(previous_N, renamed[current_N]) == fraction
    assert moved_fraction(previous_N, renamed[previous_N]) == 0.0


@settings(deadline=None)
@given(labellings())
def test_moved_fraction__equals_a_plain_count(pair: tuple[Ints, Ints]) -> None:
    previous_N, current_N = pair
    moved = 0
    for cluster in np.unique(current_N):
        came_from = previous_N[current_N == cluster]
        ids, counts = np.unique(came_from, return_counts=True)
        moved += int((came_from != ids[counts.argmax()]).sum())
    assert moved_fraction(previous_N, current_N) == pytest.approx(moved / len(previous_N))


def test_cluster_sizes__summarises() -> None:
    sizes = cluster_sizes(np.repeat([0, 1, 3, 4], [70, 20, 8, 2]), 6)
    assert (sizes.empty, sizes.smallest, sizes.median, sizes.largest) == (2, 2, 14.0, 70)
    assert sizes.largest_fraction == pytest.approx(0.7)
    expected = -sum(share * np.log(share) for share in (0.7, 0.2, 0.08, 0.02))
    assert sizes.entropy_nats == pytest.approx(expected)
    assert sizes.effective_clusters == pytest.approx(np.exp(expected))


def test_cluster_sizes__effective_clusters_are_those_of_equal_size() -> None:
    assert cluster_sizes(np.repeat(np.arange(8), 5), 20).effective_clusters == pytest.approx(8)
    assert cluster_sizes(np.zeros(5, dtype=np.int32), 20).effective_clusters == 1.0


def test_cluster_counts__places_are_ids() -> None:
    assert cluster_counts(np.array([3, 0, 3], dtype=np.int32), 5).tolist() == [1, 0, 0, 2, 0]


@pytest.mark.parametrize("ids", [[0, 5], [-1, 2]])
def test_cluster_counts__refuses_ids_out_of_range(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="not within 0 to 4"):
        cluster_counts(np.array(ids), 5)
