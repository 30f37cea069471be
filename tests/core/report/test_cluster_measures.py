import numpy as np

from deepcluster_core.report.cluster_measures import class_table, measure_clusters


def test_measure_clusters__equal_those_of_a_loop() -> None:
    generator = np.random.default_rng(0)
    centroids_KQ = generator.normal(size=(7, 3)).astype(np.float32)
    cluster_N = np.array([0, 0, 1, 2, 2, 2, 4, 5, 6], np.int32)  # 3 has no image
    distance_N = generator.random(9).astype(np.float32)

    found = measure_clusters(cluster_N, distance_N, centroids_KQ)

    populated = [0, 1, 2, 4, 5, 6]
    for cluster in populated:
        gaps = {
            other: float(np.linalg.norm(centroids_KQ[cluster] - centroids_KQ[other]))
            for other in populated
            if other != cluster
        }
        assert found.twin_K[cluster] == min(gaps, key=gaps.__getitem__)
        np.testing.assert_allclose(found.gap_K[cluster], min(gaps.values()), rtol=1e-5)
        np.testing.assert_allclose(
            found.spread_K[cluster], distance_N[cluster_N == cluster].mean(), rtol=1e-6
        )
    assert found.twin_K[3] == -1
    assert np.isnan(found.spread_K[3])


def test_measure_clusters__equal_centroids_are_twins_of_each_other() -> None:
    centroids_KQ = np.array([[1, 1], [1, 1], [5, 5]], np.float32)

    found = measure_clusters(np.array([0, 1, 2]), np.zeros(3), centroids_KQ)

    assert found.twin_K[:2].tolist() == [1, 0]
    assert found.twins(5)[0] == (0, 1)


def test_measure_clusters__a_single_cluster_has_no_twin() -> None:
    found = measure_clusters(np.zeros(4, int), np.ones(4), np.zeros((1, 2), np.float32))

    assert found.twin_K.tolist() == [-1]
    assert found.twins(3) == []


def test_measures__tiny_clusters_are_not_called_unstable() -> None:
    cluster_N = np.repeat([0, 1, 2], [10, 10, 1])
    stayed_N = np.repeat([4, 1, 0], [10, 10, 1])

    found = measure_clusters(
        cluster_N, np.ones(21), np.eye(3, dtype=np.float32), stayed_N=stayed_N, stayed_epochs=4
    )

    assert found.least_stable(3) == [1, 0]


def test_class_table__counts_each_pair_and_the_rest_together() -> None:
    found = class_table(
        np.array([0, 0, 0, 2, 2, 1, 2]),
        np.array([0, 1, 1, 2, -1, 0, 1]),
        ["cat", "dog", "owl"],
        clusters=[2, 0],
        columns=[1],
    )

    assert found.classes == ["dog"]
    assert found.has_others
    assert found.rows == [(2, [1, 1]), (0, [2, 1])]
