"""Suffixes: N rows, D features, K clusters, Q dimensions."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepcluster_core.clustering.assign import Assigner
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.clustering.rows import Floats, InMemory
from deepcluster_core.errors import ArtifactError, FeatureError

D = 24


def features(count: int = 300) -> Floats:
    generator = np.random.default_rng(3)
    return generator.standard_normal((count, D)).astype(np.float32) * np.arange(1, D + 1)


def clustered(rows_ND: Floats, *, whitened: bool = True) -> tuple[Pca, Floats, NDArray[np.int32]]:
    """Return the PCA, the centroids and the clusters of rows."""
    pca = fit_pca([torch.from_numpy(rows_ND)], dim=8, whitened=whitened)
    rows_NQ = pca.whiten(torch.from_numpy(rows_ND)).numpy()
    fit = KMeans(12).fit(InMemory(rows_NQ), seed=1)
    return pca, fit.centroids_KQ, fit.cluster_N


def arrays(pca: Pca, centroids_KQ: Floats) -> dict[str, NDArray[np.float32]]:
    return {
        "pca_mean": pca.mean_D.numpy(),
        "pca_components": pca.components_QD.numpy(),
        "pca_eigenvalues": pca.eigenvalues_Q.numpy(),
        "centroids": centroids_KQ,
    }


def in_batches(rows_ND: Floats, size: int) -> list[tuple[list[str], Floats]]:
    return [
        (
            [str(row) for row in range(start, min(start + size, len(rows_ND)))],
            rows_ND[start:][:size],
        )
        for start in range(0, len(rows_ND), size)
    ]


@pytest.mark.parametrize("whitened", [True, False])
@pytest.mark.parametrize("size", [7, 64, 300])
def test_assign__rows_come_to_the_clusters_they_were_in(size: int, *, whitened: bool) -> None:
    rows_ND = features()
    pca, centroids_KQ, cluster_N = clustered(rows_ND, whitened=whitened)
    assigner = Assigner.of(arrays(pca, centroids_KQ), whitened=whitened, device="cpu")

    found = [*assigner.assign(in_batches(rows_ND, size), at_once=64)]

    assert [len(paths) for paths, _, _ in found] == [64, 64, 64, 64, 44]
    assert [path for paths, _, _ in found for path in paths] == [str(row) for row in range(300)]
    np.testing.assert_array_equal(
        np.concatenate([cluster_HB[0] for _, cluster_HB, _ in found]), cluster_N
    )
    rows_NQ = pca.whiten(torch.from_numpy(rows_ND)).numpy()
    np.testing.assert_allclose(
        np.concatenate([distance_HB[0] for _, _, distance_HB in found]),
        np.linalg.norm(rows_NQ - centroids_KQ[cluster_N], axis=1),
        rtol=1e-5,
    )


def test_assign__projects_in_float32_whatever_the_features_are_computed_in() -> None:
    rows_ND = features()
    pca, centroids_KQ, _ = clustered(rows_ND)
    assigner = Assigner.of(arrays(pca, centroids_KQ), whitened=True, device="cpu")

    ((_, _, wanted_N),) = assigner.assign(in_batches(rows_ND, 300))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ((_, _, found_N),) = assigner.assign(in_batches(rows_ND, 300))

    np.testing.assert_array_equal(found_N, wanted_N)


def test_assign__features_that_are_not_finite_are_named() -> None:
    rows_ND = features()
    pca, centroids_KQ, _ = clustered(rows_ND)
    rows_ND[[17, 20]] = np.inf
    assigner = Assigner.of(arrays(pca, centroids_KQ), whitened=True, device="cpu")

    with pytest.raises(FeatureError, match=r"^17: its feature is not finite; .* 2 of 300 "):
        next(assigner.assign(in_batches(rows_ND, 300)))


def test_assign__features_of_another_width_are_refused() -> None:
    pca, centroids_KQ, _ = clustered(features())
    assigner = Assigner.of(arrays(pca, centroids_KQ), whitened=True, device="cpu")

    with pytest.raises(FeatureError, match="have 20 values, but the labels were made from 24"):
        next(assigner.assign(in_batches(features()[:, :20], 300)))


@pytest.mark.parametrize("missing", ["centroids", "pca_mean"])
def test_of__missing_array_is_an_error(missing: str) -> None:
    pca, centroids_KQ, _ = clustered(features())
    found = arrays(pca, centroids_KQ)
    del found[missing]

    with pytest.raises(ArtifactError, match=f"'{missing}'"):
        Assigner.of(found, whitened=True, device="cpu")


def test_of__arrays_that_do_not_fit_are_an_error() -> None:
    pca, centroids_KQ, _ = clustered(features())

    with pytest.raises(ArtifactError, match="do not match"):
        Assigner.of(arrays(pca, centroids_KQ[:, :5]), whitened=True, device="cpu")
