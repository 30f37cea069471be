"""Which images are worth a label. Suffixes: N images."""

import numpy as np

from deepcluster_core.inspection.duplicates import SUGGESTED, suggested_threshold
from deepcluster_core.inspection.neighbours import Neighbours, nearest_neighbours
from deepcluster_core.inspection.picks import ImagePlaces, Pick, pick

N, K = 120, 6
CLUSTER = np.arange(N) % K
ALL = np.ones(N, np.bool_)


def places(**replaced: object) -> ImagePlaces:
    """Return images that are unlike each other; number 7 lies at a border, 50 is an outlier."""
    margin_N, outlier_N = np.ones(N), np.full(N, 0.1)
    margin_N[7], outlier_N[50] = 0.001, 0.9
    alone = Neighbours(np.zeros((N, 1), np.int32), np.zeros((N, 1), np.float32))
    values = {
        "cluster_N": CLUSTER,
        "second_N": (CLUSTER + 1) % K,
        "margin_N": margin_N,
        "outlier_N": outlier_N,
        "neighbours": alone,
    }
    return ImagePlaces(**(values | replaced))  # pyright: ignore[reportArgumentType]


def chosen(num_images: int, *, seed: int = 0, **replaced: object) -> list[Pick]:
    return pick(places(**replaced), num_images, is_candidate_N=ALL, same_from=0.99, seed=seed)


def test_pick__spreads_over_reasons_and_clusters() -> None:
    found = chosen(24)

    reasons = [one.reason for one in found]
    assert [reasons.count(reason) for reason in ("cluster", "border", "outlier")] == [12, 6, 6]
    drawn = [CLUSTER[one.image_id] for one in found if one.reason == "cluster"]
    assert [drawn.count(cluster) for cluster in range(K)] == [2] * K
    by_reason = {one.reason: one.image_id for one in reversed(found)}
    assert by_reason["border"] == 7
    assert by_reason["outlier"] == 50
    assert len({one.image_id for one in found}) == 24


def test_pick__borders_of_different_pairs_come_first() -> None:
    margin_N = np.ones(N)
    margin_N[CLUSTER == 2] = 0.01  # all between the clusters 2 and 3
    found = chosen(24, margin_N=margin_N)

    at_border = [CLUSTER[one.image_id] for one in found if one.reason == "border"]
    assert sorted(at_border) == [*range(K)]


def test_pick__is_repeated_by_its_seed() -> None:
    assert chosen(20) == chosen(20)
    assert chosen(20) != chosen(20, seed=1)


def test_pick__only_candidates_and_all_of_them() -> None:
    is_candidate_N = np.arange(N) < 10

    found = pick(places(), 50, is_candidate_N=is_candidate_N, same_from=0.99, seed=0)

    assert {one.image_id for one in found} == {*range(10)}


def test_pick__one_of_several_copies() -> None:
    others = np.arange(N, dtype=np.int32)[:, None] ^ 1  # images 2 i and 2 i + 1 are equal
    copies = Neighbours(others, np.ones((N, 1), np.float32))

    found = chosen(N, neighbours=copies)

    assert len({one.image_id // 2 for one in found}) == len(found) == N // 2


def test_suggested_threshold__lies_between_copies_and_other_images() -> None:
    rng = np.random.default_rng(0)
    rows_NQ = rng.normal(size=(400, 16))
    rows_NQ[:10] = rows_NQ[10:20] + rng.normal(scale=0.002, size=(10, 16))
    rows_NQ /= np.linalg.norm(rows_NQ, axis=1, keepdims=True)
    neighbours = nearest_neighbours(rows_NQ.astype(np.float32), 3)

    threshold = suggested_threshold(neighbours)

    is_near_N = neighbours.similarity_NM[:, 0] >= threshold
    assert np.flatnonzero(is_near_N).tolist() == [*range(20)]


def test_suggested_threshold__stays_in_its_range() -> None:
    ids = np.zeros((5, 1), np.int32)
    for similarity, expected in ((1.0, SUGGESTED[1]), (-0.5, SUGGESTED[0])):
        same = Neighbours(ids, np.full((5, 1), similarity, np.float32))
        assert suggested_threshold(same) == expected
