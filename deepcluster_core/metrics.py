"""Metrics of a clustering: agreement with other labels, entropy, cluster sizes and moved images.

Suffixes: N images, K clusters, C non-empty cells of the contingency table.

All counts are sparse: 100 M images in 10,000 clusters need memory for the images and for the pairs
of clusters that occur, never for a K x K table.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]

FAR_DEVIATIONS = 12.0
"""Deviations from its mean within which the overlap of two random clusters is computed."""

Overlaps = tuple[Ints, Ints, NDArray[np.int64]]
"""cell_a_C, cell_b_C and count_C: the pairs of labels that occur, and how many images have them."""


class Agreement(NamedTuple):
    """How a clustering agrees with true labels; each measure is described at its function."""

    nmi: float
    ami: float
    ari: float
    accuracy: float


def agreement(truth_N: Ints, cluster_N: Ints) -> Agreement:
    """Return all measures of agreement, for which the images are counted once.

    Args:
        truth_N: true labels; any integers, also negative.
        cluster_N: clusters of these images, in equal order.
    """
    cells = overlaps(truth_N, cluster_N)
    return Agreement(_nmi(cells), _ami(cells), _ari(cells), _matched_accuracy(cells))


def nmi(a_N: Ints, b_N: Ints) -> float:
    """Return the normalised mutual information of two labellings of the same images, 0 to 1.

    The formula is I(A; B) / sqrt(H(A) H(B)), section 4.1: normalised by the geometric mean, not by
    the arithmetic mean, which is scikit-learn's default. Renumbering the labels changes nothing.

    Where the formula is 0 / 0, this follows scikit-learn: two constant labellings agree fully
    (1.0), as do two empty ones; a constant and a varying labelling share no information (0.0).

    Args:
        a_N: labels; any integers, also negative.
        b_N: other labels of these images, in equal order.
    """
    return _nmi(overlaps(a_N, b_N))


def _nmi(cells: Overlaps) -> float:
    count_a_K, count_b_K = _sizes(cells)
    if np.count_nonzero(count_a_K) <= 1 and np.count_nonzero(count_b_K) <= 1:
        return 1.0
    normaliser = float(np.sqrt(entropy(count_a_K) * entropy(count_b_K)))
    if normaliser <= 0:
        return 0.0
    # Rounding can leave 1e-17 where independence means 0, and 1 + 1e-16 where equality means 1.
    return min(max(_information(cells) / normaliser, 0.0), 1.0)


def _information(cells: Overlaps) -> float:
    """Return the mutual information: the mean of log(p(a, b) / (p(a) p(b))) over images, nats."""
    cell_a_C, cell_b_C, count_C = cells
    num_images = count_C.sum()
    count_a_K, count_b_K = _sizes(cells)
    share_C = count_C / num_images
    log_a_C = np.log(count_a_K[cell_a_C] / num_images)
    log_b_C = np.log(count_b_K[cell_b_C] / num_images)
    log_ratio_C = np.log(share_C) - log_a_C - log_b_C
    return float(share_C @ log_ratio_C)


def _sizes(cells: Overlaps) -> tuple[Ints, Ints]:
    """Return count_a_K and count_b_K, the images of each label in both labellings."""
    cell_a_C, cell_b_C, count_C = cells
    return _sums(cell_a_C, count_C), _sums(cell_b_C, count_C)


def ami(a_N: Ints, b_N: Ints) -> float:
    """Return the mutual information adjusted for chance, at most 1; 0 is expected of random labels.

    (I - E[I]) / (mean of H(A) and H(B) - E[I]), with the arithmetic mean, as scikit-learn's
    default. E[I] is that of labellings drawn with these cluster sizes. NMI, in contrast, grows with
    the number of clusters even for random labels. Source: Vinh, Epps and Bailey 2010.

    Two constant labellings agree fully (1.0), as do two empty ones.

    Args:
        a_N: labels; any integers, also negative.
        b_N: other labels of these images, in equal order.
    """
    return _ami(overlaps(a_N, b_N))


def _ami(cells: Overlaps) -> float:
    count_a_K, count_b_K = _sizes(cells)
    num_populated = (np.count_nonzero(count_a_K), np.count_nonzero(count_b_K))
    # Two constant labellings, and two with one image in each cluster, can only be equal.
    if max(num_populated) <= 1 or min(num_populated) == cells[2].sum():
        return 1.0
    expected = expected_information(count_a_K, count_b_K)
    possible = (entropy(count_a_K) + entropy(count_b_K)) / 2 - expected
    smallest = float(np.finfo(np.float64).eps)  # 0 / 0 becomes 0, as in scikit-learn
    possible = min(possible, -smallest) if possible < 0 else max(possible, smallest)
    return (_information(cells) - expected) / possible


def expected_information(count_a_K: Ints, count_b_K: Ints) -> float:
    """Return the mean mutual information of random labellings with these cluster sizes, nats.

    The overlap of a cluster of a images with one of b images follows the hypergeometric
    distribution. Terms depend on the two sizes alone, so each pair of sizes that occur is computed
    once: 1.28 M images in 10,000 clusters and 1,000 classes have at most 1,600 sizes each.

    Args:
        count_a_K: images per cluster; their sum is N.
        count_b_K: images per cluster of the other labelling, with the sum N as well.
    """
    num_images = int(count_a_K.sum())
    size_a_U, times_a_U = np.unique(count_a_K[count_a_K > 0], return_counts=True)
    size_b_V, times_b_V = np.unique(count_b_K[count_b_K > 0], return_counts=True)
    total = 0.0
    for size_a, times_a in zip(size_a_U.tolist(), times_a_U.tolist(), strict=True):
        per_pair_V = _expected_of_pairs(size_a, size_b_V, num_images)
        total += times_a * float(times_b_V @ per_pair_V)
    return total


def _expected_of_pairs(size_a: int, size_b_V: Ints, num_images: int) -> NDArray[np.float64]:
    """Return what a cluster of `size_a` images and one of each size add to the expectation.

    Overlaps further than `FAR_DEVIATIONS` from the mean are left out, as their probability is below
    the resolution of float64. V sizes, O overlaps.
    """
    sizes_V = size_b_V.astype(np.float64)
    mean_V = size_a * sizes_V / num_images
    # The variance of the hypergeometric distribution is below that of the Poisson distribution.
    reach_V = FAR_DEVIATIONS * np.sqrt(mean_V) + FAR_DEVIATIONS**2 / 3
    least_V = np.maximum(1, np.maximum(size_a + sizes_V - num_images, np.floor(mean_V - reach_V)))
    most_V = np.minimum(np.minimum(size_a, sizes_V), np.ceil(mean_V + reach_V))
    num_overlaps = max(0, int((most_V - least_V).max()) + 1)
    overlap_VO = least_V[:, None] + np.arange(num_overlaps)
    is_possible_VO = overlap_VO <= most_V[:, None]
    overlap_VO = np.minimum(overlap_VO, most_V[:, None])  # keeps the logarithms below finite
    size_VO = sizes_V[:, None]
    log_ways_VO = _log_choose(size_VO, overlap_VO) + _log_choose(
        num_images - size_VO, size_a - overlap_VO
    )
    probability_VO = np.exp(log_ways_VO - _log_choose(num_images, size_a))
    log_ratio_VO = np.log(overlap_VO) - np.log(mean_V)[:, None]
    terms_VO = overlap_VO / num_images * log_ratio_VO * probability_VO
    return np.where(is_possible_VO, terms_VO, 0.0).sum(axis=1)


def _log_choose(n: NDArray[np.float64] | int, k: NDArray[np.float64] | int) -> NDArray[np.float64]:
    """Return the logarithm of the number of ways to choose k of n."""
    from scipy.special import gammaln  # noqa: PLC0415  as `matching` imports scipy

    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def ari(a_N: Ints, b_N: Ints) -> float:
    """Return the adjusted Rand index, at most 1; 0 is expected of random labels.

    It counts the pairs of images that two labellings agree to group. Source: Hubert and Arabie
    1985. Where the formula is 0 / 0, labellings are equal up to their names (1.0).

    Args:
        a_N: labels; any integers, also negative.
        b_N: other labels of these images, in equal order.
    """
    return _ari(overlaps(a_N, b_N))


def _ari(cells: Overlaps) -> float:
    num_images = int(cells[2].sum())
    together = _num_pairs(cells[2])
    in_a, in_b = map(_num_pairs, _sizes(cells))
    possible = num_images * (num_images - 1) // 2
    # Multiplied by 2 x `possible`, so that all is exact in Python's integers until the end.
    above_chance = 2 * (together * possible - in_a * in_b)
    most = (in_a + in_b) * possible - 2 * in_a * in_b
    return 1.0 if most == 0 else above_chance / most


def _num_pairs(counts: Ints) -> int:
    """Return the number of pairs within groups of these sizes."""
    return int((counts.astype(np.int64) * (counts - 1) // 2).sum())


def matched_accuracy(truth_N: Ints, cluster_N: Ints) -> float:
    """Return the clustering accuracy, 0 to 1: the share of images in the cluster of their class.

    Each class is matched to at most one cluster and each cluster to at most one class, so that as
    many images as possible agree (Hungarian matching). With more clusters than classes, images of
    the clusters left over count as wrong: ten clusters of equal size for each class have an
    accuracy of a tenth at most. Compare it only between equal numbers of clusters.

    Args:
        truth_N: true labels; any integers.
        cluster_N: clusters of these images, in equal order.
    """
    return _matched_accuracy(overlaps(truth_N, cluster_N))


def _matched_accuracy(cells: Overlaps) -> float:
    cell_a_C, cell_b_C, count_C = cells
    if len(count_C) == 0:
        return 1.0
    from scipy.sparse import csr_array  # noqa: PLC0415  as `matching` imports scipy

    matched_A, matched_B = matching(*cells)
    counts = csr_array((count_C, (cell_a_C, cell_b_C)))
    return float(counts[matched_A, matched_B].sum() / count_C.sum())


def matching(cell_a_C: Ints, cell_b_C: Ints, count_C: Ints) -> tuple[Ints, Ints]:
    """Return pairs of labels, each label in at most one, that have the most images in common.

    The table of counts stays sparse: 10,000 clusters of a million images in 20,000 classes have a
    million cells at most, not 200 million.

    Args:
        cell_a_C: label of each cell in one labelling, from 0.
        cell_b_C: its label in the other labelling, from 0.
        count_C: its images, at least one.

    Returns:
        label_a_M and label_b_M of the pairs, which have images in common.
    """
    # scipy is imported where it computes: every command imports this module, few compute.
    from scipy.sparse import coo_array  # noqa: PLC0415
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching  # noqa: PLC0415

    num_a = int(cell_a_C.max()) + 1
    num_b = int(cell_b_C.max()) + 1
    # A full matching must exist, so each label of the first labelling may also take a partner of
    # its own that is worth nothing. One is added to all weights, as zeros would be no edges; a full
    # matching has one edge for each label, so this does not change which one is best.
    own_A = np.arange(num_a)
    weight = np.concatenate([count_C + 1, np.ones(num_a, np.int64)]).astype(np.float64)
    row = np.concatenate([cell_a_C, own_A])
    column = np.concatenate([cell_b_C, num_b + own_A])
    weights = coo_array((weight, (row, column)), shape=(num_a, num_b + num_a)).tocsr()
    label_a_A, partner_A = min_weight_full_bipartite_matching(weights, maximize=True)
    is_real_A = partner_A < num_b
    return label_a_A[is_real_A], partner_A[is_real_A]


def entropy(counts_K: Ints) -> float:
    """Return the entropy of the distribution with these counts, in nats; 0 if all counts are 0.

    Args:
        counts_K: images per cluster; empty clusters add nothing.
    """
    num_images = max(int(counts_K.sum()), 1)
    share_P = counts_K[counts_K > 0] / num_images
    return abs(float(share_P @ np.log(share_P)))  # abs rather than minus, which could return -0.0


def moved_fraction(previous_N: Ints, current_N: Ints) -> float:
    """Return the share of images, 0 to 1, that changed their cluster since the previous epoch.

    Cluster ids are not comparable between epochs, because k-means numbers clusters anew. Each
    current cluster is therefore matched to the previous cluster that most of its images come from.
    An image has moved if it comes from any other cluster; ties do not change the count. Several
    current clusters may match one previous cluster, so a clean split moves no image, while a merger
    moves the images of the smaller part.

    Args:
        previous_N: clusters in the previous epoch; any integers.
        current_N: current clusters of these images, in equal order.
    """
    _, cell_current_C, count_C = overlaps(previous_N, current_N)
    if len(current_N) == 0:
        return 0.0
    num_clusters = int(cell_current_C.max()) + 1
    stayed_K = np.zeros(num_clusters, dtype=np.int64)
    np.maximum.at(stayed_K, cell_current_C, count_C)
    num_stayed = float(stayed_K.sum())
    return 1.0 - num_stayed / len(current_N)


@dataclass(frozen=True)
class ClusterSizes:
    """How images are distributed over clusters. A collapse shows as few effective clusters."""

    empty: int
    smallest: int
    """Images in the smallest non-empty cluster."""
    median: float
    """Median number of images in the non-empty clusters."""
    largest: int
    largest_fraction: float
    """Share of all images, 0 to 1, in the largest cluster."""
    entropy_nats: float
    effective_clusters: float
    """exp(entropy), 1 to k: the number of clusters of equal size with this entropy."""


def cluster_sizes(cluster_N: Ints, k: int) -> ClusterSizes:
    """Summarise the sizes of `k` clusters.

    Args:
        cluster_N: cluster ids, 0 to k - 1, of at least one image.
        k: number of clusters, empty ones included.

    Raises:
        ValueError: there are no images, or an id is not below `k`.
    """
    counts_K = cluster_counts(cluster_N, k)
    populated_P = counts_K[counts_K > 0]
    if len(populated_P) == 0:
        raise ValueError("no images, so no cluster has a size")
    entropy_nats = entropy(counts_K)
    largest = int(populated_P.max())
    return ClusterSizes(
        empty=k - len(populated_P),
        smallest=int(populated_P.min()),
        median=float(np.median(populated_P)),
        largest=largest,
        largest_fraction=largest / len(cluster_N),
        entropy_nats=entropy_nats,
        effective_clusters=float(np.exp(entropy_nats)),
    )


def cluster_counts(cluster_N: Ints, k: int) -> NDArray[np.int64]:
    """Return counts_K, the number of images of each cluster id, 0 for empty clusters.

    Raises:
        ValueError: an id is negative or not below `k`.
    """
    if len(cluster_N):
        lowest = int(cluster_N.min())
        highest = int(cluster_N.max())
        if lowest < 0 or highest >= k:
            raise ValueError(
                f"cluster ids range from {lowest} to {highest}, not within 0 to {k - 1}"
            )
    return np.bincount(cluster_N, minlength=k).astype(np.int64, copy=False)


def overlaps(a_N: Ints, b_N: Ints) -> Overlaps:
    """Return cell_a_C, cell_b_C and count_C: the pairs of labels that occur and their counts.

    Labels are replaced by ids from 0, some of which may not occur. The cost is one sort of N int64
    keys: for N = 100 M and K = 10,000 the NMI takes 2.4 s on one core with AVX-512. Besides the
    labels it needs 9 bytes of memory per image and about 32 bytes per cell.

    Raises:
        ValueError: the labellings differ in length.
    """
    if len(a_N) != len(b_N):
        raise ValueError(f"labels of {len(a_N)} and of {len(b_N)} images cannot be compared")
    if len(a_N) == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, nothing
    a_N = ids_from_0(a_N)
    b_N = ids_from_0(b_N)
    # Both ids of an image become one key, so that sorting brings equal pairs together.
    width = int(b_N.max()) + 1
    key_N = a_N.astype(np.int64)  # a copy, worked on in place: N may be 100 M
    key_N *= width
    key_N += b_N
    key_N.sort()
    changes_C = np.flatnonzero(key_N[1:] != key_N[:-1]) + 1
    starts_C = np.concatenate([[0], changes_C])
    cell_a_C, cell_b_C = np.divmod(key_N[starts_C], width)
    count_C = np.diff(starts_C, append=len(key_N))
    return cell_a_C, cell_b_C, count_C


def ids_from_0(label_N: Ints) -> Ints:
    """Return the labels as ids from 0 to less than 4 N, so that two ids fit into one int64 key."""
    lowest = int(label_N.min())
    highest = int(label_N.max())
    # Widely spread labels, such as hashes: a table over their range might not fit into memory.
    if highest - lowest >= 4 * len(label_N):
        _, id_N = np.unique(label_N, return_inverse=True)
        return id_N
    if lowest == 0:
        return label_N
    return label_N.astype(np.int64) - lowest


def _sums(cell_C: Ints, count_C: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return counts_K, the images per label; bincount adds in float64, which is exact to 2^53."""
    return np.bincount(cell_C, weights=count_C).astype(np.int64)
