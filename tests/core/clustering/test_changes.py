"""Clusters built by hand from pieces, then every property at once on random ones."""

from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcluster_core.clustering.changes import BESIDES, KINDS, MOVED, SAME, Change, Part, changes

Ids = NDArray[np.int32]
Flow = dict[tuple[int, int], int]
"""Images that were in the first cluster before and are in the second one after."""


def labels(flow: Flow) -> tuple[Ids, Ids]:
    pairs = np.repeat(np.array([*flow], np.int32), [*flow.values()], axis=0)
    return pairs[:, 0], pairs[:, 1]


def changed(flow: Flow, *, k: int = 10) -> list[Change]:
    return changes(*labels(flow), k_before=k, k_after=k)


def told(flow: Flow) -> set[tuple[str, int | None, int | None]]:
    found = [(change.kind, change.previous, change.cluster) for change in changed(flow)]
    assert len(found) == len(set(found))
    return set(found)


def test_changes__renumbered_clusters_are_the_same() -> None:
    found = changed({(0, 2): 30, (1, 0): 20, (2, 1): 10})

    assert [(c.kind, c.previous, c.cluster) for c in found] == [
        ("same", 0, 2),
        ("same", 1, 0),
        ("same", 2, 1),
    ]
    assert {c.jaccard for c in found} == {1.0}
    whole = Part(2, 30, 1.0)
    assert found[0].went_to == (whole,)
    assert found[0].came_from == (Part(0, 30, 1.0),)
    assert (found[0].size, found[0].previous_size, found[0].shared) == (30, 30, 30)


def test_changes__a_split() -> None:
    assert told({(0, 0): 60, (0, 1): 40, (2, 2): 9}) == {
        ("split", 0, 0),
        ("split", 0, 1),
        ("same", 2, 2),
    }


def test_changes__a_merger() -> None:
    assert told({(0, 0): 60, (1, 0): 40, (2, 2): 9}) == {
        ("merged", 0, 0),
        ("merged", 1, 0),
        ("same", 2, 2),
    }


def test_changes__a_split_in_many_small_parts() -> None:
    flow = {(0, child): 10 for child in range(8)}

    assert told(flow) == {("split", 0, child) for child in range(8)}
    backwards = {(child, 0): 10 for child in range(8)}
    assert told(backwards) == {("merged", child, 0) for child in range(8)}


def test_changes__a_crumb_makes_no_split_and_no_merger() -> None:
    assert told({(0, 0): 80, (0, 1): 20}) == {("same", 0, 0), ("new", None, 1)}
    assert told({(0, 0): 80, (1, 0): 20}) == {("same", 0, 0), ("vanished", 1, None)}


def test_changes__a_quarter_beside_the_largest_makes_a_split() -> None:
    assert BESIDES == 0.25
    assert told({(0, 0): 75, (0, 1): 25}) == {("split", 0, 0), ("split", 0, 1)}
    assert told({(0, 0): 76, (0, 1): 24}) == {("same", 0, 0), ("new", None, 1)}


def test_changes__a_child_consists_mostly_of_its_parent() -> None:
    # Half of cluster 1 is not most of it: it is no child of 0, and so 0 has one child alone.
    half = {(0, 0): 60, (0, 1): 40, (1, 1): 40}
    most = {(0, 0): 60, (0, 1): 40, (1, 1): 39}

    assert told(half) == {("same", 0, 0), ("moved", 1, 1)}
    assert told(most) == {("split", 0, 0), ("split", 0, 1), ("vanished", 1, None)}


def test_changes__same_moved_and_new_by_the_overlap() -> None:
    assert (SAME, MOVED) == (0.5, 0.1)
    others: Flow = {(1, 1): 30, (2, 2): 30}
    assert ("same", 0, 0) in told({(0, 0): 51, (0, 1): 25, (0, 2): 24} | others)
    assert ("moved", 0, 0) in told({(0, 0): 50, (0, 1): 25, (0, 2): 25} | others)
    # 10 images in both: 10 / 100 is enough, 10 / 101 is not.
    shed = {(0, number): 15 for number in (1, 2, 3)} | {(number, 0): 15 for number in (1, 2, 3)}
    shed |= {(number, number): 40 for number in (1, 2, 3)}
    at_10 = told(shed | {(0, 0): 10})
    assert ("moved", 0, 0) in at_10
    below = told(shed | {(0, 0): 10, (0, 1): 16})
    assert {("new", None, 0), ("vanished", 0, None)} <= below


def test_changes__pairs_are_matched_one_to_one_best_overlap_first() -> None:
    # 0 overlaps most with 0, then with 1; but 1 has more of 0, and 2 more of 1. It takes 2.
    flow = {(0, 0): 30, (0, 1): 20, (0, 2): 20, (1, 0): 40, (1, 1): 20, (1, 2): 30}
    flow |= {(2, 1): 30, (2, 2): 30}

    assert told(flow) == {("moved", 1, 0), ("moved", 2, 1), ("moved", 0, 2)}


def test_changes__a_split_comes_before_a_merger() -> None:
    # 0 splits into 0 and 1; 1 also takes most of cluster 5. One kind for 1: a split.
    flow = {(0, 0): 50, (0, 1): 45, (5, 1): 30}

    assert told(flow) == {("split", 0, 0), ("split", 0, 1), ("vanished", 5, None)}


def test_changes__tells_the_largest_parts() -> None:
    flow = {(0, 0): 50, (0, 1): 20, (0, 2): 15, (0, 3): 15} | {(n, n): 60 for n in (1, 2, 3)}

    zero = next(c for c in changed(flow) if c.previous == 0)

    assert zero.went_to == (Part(0, 50, 0.5), Part(1, 20, 0.2), Part(2, 15, 0.15))
    one = next(c for c in changed(flow) if c.cluster == 1)
    assert one.came_from == (Part(1, 60, 0.75), Part(0, 20, 0.25))


def test_changes__empty_clusters_are_not_told_about() -> None:
    found = changes(*labels({(7, 3): 5}), k_before=100, k_after=50)

    assert [(c.kind, c.previous, c.cluster) for c in found] == [("same", 7, 3)]


def test_changes__families_stand_together_largest_first() -> None:
    flow = {(0, 0): 30, (0, 1): 30, (1, 2): 50, (1, 3): 45, (2, 4): 10, (3, 5): 20}

    found = [(c.kind, c.previous, c.cluster) for c in changed(flow)]

    assert found == [
        ("split", 1, 2),
        ("split", 1, 3),
        ("split", 0, 0),
        ("split", 0, 1),
        ("same", 3, 5),
        ("same", 2, 4),
    ]


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 8), st.integers(1, 400))
def test_changes__every_cluster_has_one_kind(
    seed: int, k_before: int, k_after: int, num: int
) -> None:
    generator = np.random.default_rng(seed)
    before_N = generator.integers(k_before, size=num)
    after_N = before_N % k_after  # an old structure, of which a part is drawn anew
    is_new_N = generator.random(num) < generator.random()
    after_N[is_new_N] = generator.integers(k_after, size=is_new_N.sum())
    order_N = generator.permutation(num)

    found = changes(before_N, after_N, k_before=k_before, k_after=k_after)
    shuffled = changes(before_N[order_N], after_N[order_N], k_before=k_before, k_after=k_after)
    backwards = changes(after_N, before_N, k_before=k_after, k_after=k_before)

    assert found == shuffled, "the order of the images means nothing"
    kinds_before = {(c.previous, c.kind) for c in found if c.previous is not None}
    kinds_after = {(c.cluster, c.kind) for c in found if c.cluster is not None}
    assert sorted(cluster for cluster, _ in kinds_before) == np.unique(before_N).tolist()
    assert sorted(cluster for cluster, _ in kinds_after) == np.unique(after_N).tolist()
    for change in found:
        same_side = (before_N == change.previous) & (after_N == change.cluster)
        assert change.shared == same_side.sum()
        assert change.size == (after_N == change.cluster).sum()
        assert change.previous_size == (before_N == change.previous).sum()
    assert [kind for kind, _ in groupby(c.kind for c in found)] == [
        kind for kind in KINDS if kind in {c.kind for c in found}
    ]
    if not {"split", "merged"} & {c.kind for c in (*found, *backwards)}:
        mirror = {"new": "vanished", "vanished": "new"}
        counts = Counter(mirror.get(c.kind, c.kind) for c in backwards)
        assert counts == Counter(c.kind for c in found), "backwards, new is vanished"


def test_changes__refuses_what_is_not_of_the_same_images() -> None:
    with pytest.raises(ValueError, match="3 and 2 images"):
        changes(np.zeros(3, np.int32), np.zeros(2, np.int32), k_before=1, k_after=1)
    with pytest.raises(ValueError, match="not within 0 to 1"):
        changes(np.zeros(2, np.int32), np.full(2, 2, np.int32), k_before=1, k_after=2)
