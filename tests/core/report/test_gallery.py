from itertools import chain

import numpy as np

from deepcluster_core.clustering.changes import changes
from deepcluster_core.report.gallery import ALL, FARTHEST, NEAREST, Assigned, choose, describe


def assigned(sizes: list[int], *, label_N: np.ndarray | None = None, seed: int = 0) -> Assigned:
    """Return clusters of these sizes, shuffled, at random distances."""
    generator = np.random.default_rng(seed)
    cluster_N = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    order = generator.permutation(len(cluster_N))
    return Assigned(
        cluster_N=cluster_N[order],
        distance_N=generator.random(len(cluster_N)).astype(np.float32),
        label_N=None if label_N is None else label_N[order].astype(np.int32),
        k=len(sizes),
    )


def test_choose__each_heading_has_what_it_says_and_no_cluster_stands_twice() -> None:
    sizes = list(range(1, 31))
    # Cluster 15 holds one class alone, cluster 20 all four, the others two of them.
    labels = [np.arange(size) % 2 for size in sizes]
    labels[15], labels[20] = np.zeros(16, int), np.arange(21) % 4
    found = choose(
        assigned(sizes, label_N=np.concatenate(labels)),
        clusters=10,
        generator=np.random.default_rng(0),
    )

    assert [*found] == ["Largest", "Smallest", "Purest", "Most mixed", "Random"]
    assert found["Largest"] == [29, 28]
    assert found["Smallest"] == [0, 1]
    assert found["Purest"][0] == 15
    assert found["Most mixed"][0] == 20
    shown = [*chain.from_iterable(found.values())]
    assert len(shown) == len(set(shown)) == 10


def test_choose__without_labels_there_is_no_purity() -> None:
    found = choose(assigned([3] * 20), clusters=9, generator=np.random.default_rng(0))

    assert {heading: len(group) for heading, group in found.items()} == {
        "Largest": 3,
        "Smallest": 3,
        "Random": 3,
    }


def test_choose__the_seed_decides_the_random_ones_alone() -> None:
    one, same, other = (
        choose(assigned([3] * 200), clusters=9, generator=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )

    assert one == same
    assert one["Random"] != other["Random"]
    assert one["Largest"] == other["Largest"]


def test_choose__few_clusters_are_all_shown_but_empty_ones() -> None:
    found = choose(assigned([5, 0, 9, 7]), clusters=3, generator=np.random.default_rng(0))

    assert found == {ALL: [2, 3, 0]}


def test_choose__of_none_is_nothing() -> None:
    assert choose(assigned([5, 9]), clusters=0, generator=np.random.default_rng(0)) == {}


def test_choose__clusters_without_known_labels_are_neither_pure_nor_mixed() -> None:
    label_N = np.repeat([-1, 0, 0, -1, 1, -1], 4)
    found = choose(
        assigned([4] * 6, label_N=label_N), clusters=5, generator=np.random.default_rng(0)
    )

    judged = {*found.get("Purest", []), *found.get("Most mixed", [])}
    assert judged <= {1, 2, 4}


def test_describe__nearest_and_farthest_by_distance_whatever_the_order_of_rows() -> None:
    given = assigned([40, 60, 20])

    cluster = describe(given, [2, 1])[1]

    ids = np.flatnonzero(given.cluster_N == 1)
    ordered = ids[np.argsort(given.distance_N[ids])].tolist()
    assert cluster.size == 60
    assert [member.image_id for member in cluster.nearest] == ordered[:NEAREST]
    assert [member.image_id for member in cluster.farthest] == ordered[-FARTHEST:]


def test_describe__a_small_cluster_shows_each_image_once() -> None:
    given = assigned([3, 14])

    found = describe(given, [0, 1])

    assert [len(found[0].nearest), len(found[0].farthest)] == [3, 0]
    assert [len(found[1].nearest), len(found[1].farthest)] == [12, 2]
    assert len({member.image_id for member in found[1].shown}) == 14


def test_describe__purity_counts_known_labels_alone() -> None:
    label_N = np.array([0, 0, 0, 1, -1, -1, -1, -1, -1, -1])

    cluster = describe(assigned([10], label_N=label_N), [0])[0]

    assert cluster.purity == 0.75
    assert cluster.classes == ((0, 0.75), (1, 0.25))
    assert describe(assigned([10]), [0])[0].purity is None


def test_describe__has_what_became_of_each_cluster() -> None:
    before_N, after_N = np.repeat([0, 1], 10), np.repeat([2, 0, 1], [10, 5, 5])
    changed = changes(before_N, after_N, k_before=2, k_after=3)

    found = describe(Assigned(after_N, np.zeros(20), None, 3, changed), [0, 1, 2])

    assert {cluster: [change.kind for change in found[cluster].changes] for cluster in found} == {
        0: ["split"],
        1: ["split"],
        2: ["same"],
    }
