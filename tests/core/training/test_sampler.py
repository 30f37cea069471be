"""Suffixes: N images, K clusters, M draws."""

import hashlib
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core.training import sampler
from deepcluster_core.training.sampler import balancing_weights, plain_order, uniform_order


def skewed(num: int = 1000) -> NDArray[np.int32]:
    """Clusters 0, 1, 3 and 4 with 70, 20, 8 and 2 % of the images; 2 is empty. Rows are mixed."""
    sizes = np.array([70, 20, 0, 8, 2]) * num // 100
    cluster_N = np.repeat(np.arange(5, dtype=np.int32), sizes)
    return np.random.default_rng(8).permutation(cluster_N)


def draw(
    cluster_N: NDArray[np.int32], *, k: int, num_draws: int, seed: int = 0
) -> NDArray[np.uint32]:
    generator = np.random.default_rng(seed)
    return uniform_order(cluster_N, k=k, num_draws=num_draws, generator=generator)


@pytest.mark.parity
@pytest.mark.parametrize("num_draws", [1000, 1001, 333, 2500, 3])
def test_uniform_order__draws_each_cluster_equally_unlike_the_released_code(num_draws: int) -> None:
    cluster_N = skewed()
    counts_K = np.bincount(cluster_N[draw(cluster_N, k=5, num_draws=num_draws)], minlength=5)

    assert counts_K.sum() == num_draws
    assert counts_K[2] == 0, "an empty cluster is skipped and shifts no label"
    # Each gives num_draws // 4 + 1; only the cut, of at most 4, takes some away.
    assert counts_K[[0, 1, 3, 4]].max() <= num_draws // 4 + 1
    assert counts_K[[0, 1, 3, 4]].min() >= num_draws // 4 + 1 - 4


def test_uniform_order__large_clusters_repeat_no_image() -> None:
    cluster_N = skewed()
    rows_M = draw(cluster_N, k=5, num_draws=1000)
    # 251 draws each: only cluster 0 has more images (700); 1, 3 and 4 (200, 80, 20) repeat theirs.
    largest = rows_M[cluster_N[rows_M] == 0]
    assert len(np.unique(largest)) == len(largest)
    second = rows_M[cluster_N[rows_M] == 1]
    assert len(np.unique(second)) < len(second)


def test_uniform_order__a_cluster_of_just_its_share_repeats_images() -> None:
    # "No larger than that": 2 clusters of 6, int(10 / 2) + 1 = 6 draws, hence with replacement.
    cluster_N = np.repeat(np.arange(2, dtype=np.int32), 6)
    orders = [draw(cluster_N, k=2, num_draws=10, seed=seed) for seed in range(20)]
    assert any(len(np.unique(order)) < 10 for order in orders)


def test_uniform_order__is_uniform_within_a_cluster() -> None:
    cluster_N = skewed()
    num_passes = 400
    counts_N = np.zeros(1000)
    for seed in range(num_passes):
        counts_N += np.bincount(draw(cluster_N, k=5, num_draws=1000, seed=seed), minlength=1000)
    for cluster, size in ((0, 700), (1, 200), (3, 80), (4, 20)):
        expected = num_passes * 250 / size
        # 5 standard deviations of a Poisson count: a false alarm in 1 of 2000 seeds.
        deviation = np.abs(counts_N[cluster_N == cluster] - expected).max()
        assert deviation < 5 * np.sqrt(expected), f"cluster {cluster}"


def test_uniform_order__is_shuffled() -> None:
    cluster_N = skewed(10_000)
    cluster_M = cluster_N[draw(cluster_N, k=5, num_draws=10_000)]
    # Neighbours share a cluster in 1/4 of 10,000 pairs, 43 standard deviation: 5 of them are 2 %.
    assert np.mean(cluster_M[1:] == cluster_M[:-1]) == pytest.approx(0.25, abs=0.022)
    for quarter in np.split(cluster_M, 4):
        assert np.mean(quarter == 4) == pytest.approx(0.25, abs=0.05)


def test_uniform_order__is_a_function_of_the_generator() -> None:
    cluster_N = skewed()
    once, again, other = (draw(cluster_N, k=5, num_draws=500, seed=seed) for seed in (1, 1, 2))
    assert once.dtype == np.uint32
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_uniform_order__names_of_clusters_do_not_matter() -> None:
    # More ids than images, most of them empty: still one share for each that is not.
    cluster_N = skewed() * np.int32(1000)
    counts = np.bincount(cluster_N[draw(cluster_N, k=5000, num_draws=1000)], minlength=5000)
    assert counts[counts > 0].tolist() == pytest.approx([250] * 4, abs=4)


def lines_run(num_images: int, k: int) -> int:
    """Return how many lines of the sampler it takes to draw as many images as there are.

    Lines elsewhere do not count, because objects of other tests may be finalized meanwhile.
    """
    cluster_N = np.random.default_rng(0).integers(k, size=num_images, dtype=np.int32)
    lines = 0

    def count(frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        nonlocal lines
        lines += event == "line" and frame.f_code.co_filename == sampler.__file__
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        draw(cluster_N, k=k, num_draws=num_images)
    finally:
        sys.settrace(before)
    return lines


def test_uniform_order__has_no_loop_over_images_or_clusters() -> None:
    """Such a loop would take minutes for ImageNet, where arrays take 0.2 s."""
    lines = lines_run(200, k=5)
    assert lines > 0
    assert lines_run(20_000, k=500) == lines


def test_uniform_order__refuses_no_images_and_unknown_clusters() -> None:
    with pytest.raises(ValueError, match="no images"):
        draw(np.zeros(0, dtype=np.int32), k=5, num_draws=10)
    with pytest.raises(ValueError, match="not within 0 to 3"):
        draw(skewed(), k=4, num_draws=10)


def test_balancing_weights__mean_over_images_is_1() -> None:
    cluster_N = skewed()
    weight_K = balancing_weights(cluster_N, k=5)
    np.testing.assert_allclose(weight_K, [1 / 2.8, 1 / 0.8, 0, 1 / 0.32, 1 / 0.08], rtol=1e-6)
    assert weight_K.dtype == np.float32
    assert weight_K[cluster_N].mean() == pytest.approx(1.0, rel=1e-5)


def test_balancing_weights__equal_the_uniform_order_in_expectation() -> None:
    cluster_N = skewed()
    loss_N = np.random.default_rng(3).random(1000) + cluster_N
    weighted = float(np.mean(balancing_weights(cluster_N, k=5)[cluster_N] * loss_N))
    mean_by_cluster = [loss_N[cluster_N == cluster].mean() for cluster in (0, 1, 3, 4)]
    assert weighted == pytest.approx(np.mean(mean_by_cluster), rel=1e-6)

    rows_M = draw(cluster_N, k=5, num_draws=100_000)
    # Uniform noise within a cluster has deviation 0.29, its mean over 100,000 draws 0.001.
    assert loss_N[rows_M].mean() == pytest.approx(weighted, abs=0.005)
    assert loss_N.mean() < weighted - 0.5, "without weights the largest cluster rules"


@pytest.mark.parametrize("draws_at_once", [sampler.DRAWS_AT_ONCE, 300])
def test_orders__are_those_of_earlier_versions(
    monkeypatch: pytest.MonkeyPatch, draws_at_once: int
) -> None:
    """The order of an epoch is part of what makes a checkpoint; a key would not show a change."""
    monkeypatch.setattr(sampler, "DRAWS_AT_ONCE", draws_at_once)
    cluster_N = (np.random.default_rng(8).random(5000) ** 3 * 40).astype(np.int32)
    generator = np.random.default_rng(9)

    uniform = uniform_order(cluster_N, k=50, num_draws=7001, generator=generator)
    plain = plain_order(5000, 7001, generator)

    # Computed with the code of 797a9f9 and NumPy 2.4.6.
    assert hash_of(uniform) == "01909a448ff5789c"
    assert hash_of(plain) == "baeb53c466691270"


def hash_of(order_M: NDArray[np.integer]) -> str:
    return hashlib.sha256(order_M.astype("<u4").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("num_draws", [0, 4, 10, 25, 30])
def test_plain_order__passes_over_all_images(num_draws: int) -> None:
    rows_M = plain_order(10, num_draws, np.random.default_rng(0))
    assert (len(rows_M), rows_M.dtype) == (num_draws, np.int64)
    counts_N = np.bincount(rows_M, minlength=10)
    assert set(counts_N) <= {num_draws // 10, -(-num_draws // 10)}
    for start in range(0, num_draws - 9, 10):
        assert sorted(rows_M[start : start + 10]) == list(range(10))


def test_plain_order__each_pass_has_another_order() -> None:
    first, second = np.split(plain_order(100, 200, np.random.default_rng(0)), 2)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(100))


def test_plain_order__refuses_no_images() -> None:
    with pytest.raises(ValueError, match="no images"):
        plain_order(0, 5, np.random.default_rng(0))
