import numpy as np

from deepcluster_core.clustering.successors import Successor, successors

# 30 images: 0 splits into 0 and 1, 1 and 2 merge into 2, 3 becomes 5.
BEFORE = np.repeat([0, 1, 2, 3], [12, 5, 4, 9])
AFTER = np.repeat([0, 1, 2, 5], [7, 5, 9, 9])


def test_successors__of_clusters_that_split_merged_or_stayed() -> None:
    found = successors(BEFORE, AFTER, range(4))

    assert found[0] == Successor(0, share=1.0)  # the larger child
    assert found[1] == Successor(2, share=5 / 9)
    assert found[3] == Successor(5, share=1.0)


def test_successors__of_wanted_clusters_alone() -> None:
    assert set(successors(BEFORE, AFTER, [3])) == {3}


def test_successors__chance_is_no_overlap() -> None:
    rng = np.random.default_rng(0)
    # With few clusters, any two share more than `changes` asks for: a ninth or a third.
    for k in (2, 3, 5, 20):
        before, after = rng.integers(k, size=(2, 2000))
        assert successors(before, after, range(k)) == {}


def test_successors__two_clusters_that_stayed() -> None:
    before = np.repeat([0, 1], 50)

    assert successors(before, 1 - before, [0]) == {0: Successor(1, share=1.0)}


def test_successors__one_cluster_says_nothing() -> None:
    all_images = np.zeros(50, np.int64)

    assert successors(all_images, all_images, [0]) == {}
