"""The order in which an epoch sees images. Suffixes: N images, K clusters, E non-empty, M draws.

Section 3.3 names two remedies for clusters of unequal size and calls them equivalent: drawing
images uniformly over the clusters (`uniform_order`), or weighting the loss by the inverse of the
cluster's size (`balancing_weights` with `plain_order`). They agree in expectation only: the first
repeats the images of small clusters, with augmentation; the second scales their gradients.
"""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.metrics import cluster_counts


def uniform_order(
    cluster_N: NDArray[np.integer], *, k: int, num_draws: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw rows so that every non-empty cluster comes up equally often, in random order.

    Each of the E non-empty clusters contributes int(num_draws / E) + 1 rows, drawn without
    replacement if it has more rows than that and with replacement if not. They are shuffled and cut
    to `num_draws`, so the counts of clusters differ only by this cut.

    The authors' released sampler is not uniform, contrary to section 3.3: it draws clusters of
    70/20/8/2 % of the images 70/20/8/2 % of the time. This one draws each 25 % of the time.

    ImageNet's 1.28 M images in 10,000 clusters take 0.2 s on one core.

    Args:
        cluster_N: cluster ids 0 to k - 1; any of them may be empty.
        k: number of clusters, empty ones included.
        num_draws: number of draws; the number of images for one pass, n times that for n passes.
        generator: the only source of randomness.

    Returns:
        rows_M: positions in `cluster_N`.

    Raises:
        ValueError: there are no images, or a cluster id is not below `k`.
    """
    counts_K = cluster_counts(cluster_N, k)
    size_E = counts_K[counts_K > 0]
    size_E1 = size_E[:, None]
    num_filled = len(size_E1)
    if num_filled == 0:
        raise ValueError("no images to draw from")
    per_cluster = num_draws // num_filled + 1

    # Rows cluster by cluster, in random order within each: the first ones of a cluster are then a
    # draw without replacement, for all clusters at once.
    mixed_N = generator.permutation(len(cluster_N))
    by_cluster_N = np.argsort(cluster_N[mixed_N], kind="stable")
    grouped_N = mixed_N[by_cluster_N]
    start_E = np.cumsum(size_E) - size_E

    # Small clusters have too few rows for that and draw with replacement.
    first_J = np.arange(per_cluster)[None, :]
    within_EJ = first_J.repeat(num_filled, axis=0)
    is_small_E = size_E <= per_cluster
    small_shape = (int(is_small_E.sum()), per_cluster)
    within_EJ[is_small_E] = generator.integers(size_E1[is_small_E], size=small_shape)
    places_EJ = start_E[:, None] + within_EJ
    drawn = grouped_N[places_EJ.ravel()]
    return generator.permutation(drawn)[:num_draws]


def balancing_weights(cluster_N: NDArray[np.integer], *, k: int) -> NDArray[np.float32]:
    """Return weight_K, the loss weight of the images of each cluster, for use with `plain_order`.

    The weight is N / (E * size): inverse to the cluster's size, and scaled so that its mean over
    the images is 1 and the learning rate keeps its meaning. Empty clusters have weight 0.

    Raises:
        ValueError: a cluster id is not below `k`.
    """
    counts_K = cluster_counts(cluster_N, k)
    num_filled = np.count_nonzero(counts_K)
    total_K = num_filled * counts_K
    is_filled_K = total_K > 0
    weight_K = np.zeros(k, dtype=np.float64)
    np.divide(len(cluster_N), total_K, out=weight_K, where=is_filled_K)
    return weight_K.astype(np.float32)


def plain_order(
    num_images: int, num_draws: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return rows_M: passes over all images, each in a new random order, cut to `num_draws`.

    Raises:
        ValueError: there are no images.
    """
    if num_images < 1:
        raise ValueError("no images to draw from")
    # The empty array gives the result its type even if there are no draws.
    passes = [np.zeros(0, dtype=np.int64)]
    for _ in range(0, num_draws, num_images):
        passes.append(generator.permutation(num_images))
    return np.concatenate(passes)[:num_draws]
