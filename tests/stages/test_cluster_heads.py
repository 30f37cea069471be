"""Several clusterings, no PCA, and clusters of a least size. Suffixes: N images, D values, K, Q."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.artifacts.file_names import CLUSTERING, LABELS
from deepcluster_core.artifacts.manifest import Manifest, Stage, read_manifest
from deepcluster_core.artifacts.tables import (
    centroids_of,
    label_frame,
    read_cluster,
    read_clustering,
    read_labels,
)
from deepcluster_core.clustering.assign import Assigner
from deepcluster_core.context import Context
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.metrics import nmi
from deepcluster_core.ranks import Ranks
from stages.cluster import ClusterConfig
from stages.cluster import cluster as stage
from tests.support.ranks import on_ranks

EPOCH_0 = Context(seed=31, epoch=0)
THREE = ClusterConfig(algorithm="spherical", k=(8, 8, 5), pca_dim="none", whiten=False)


def run(
    images: Path,
    features: Path,
    out: Path,
    config: ClusterConfig,
    *,
    context: Context = EPOCH_0,
    previous: Path | None = None,
) -> Manifest:
    stage.run(
        cluster=config,
        images=images,
        features=features,
        previous=previous,
        out=out,
        context=context,
    )
    return read_manifest(out)


def rows_of(features: Path) -> NDArray[np.float32]:
    return np.concatenate(list(Features(features).blocks())).astype(np.float32)


def own_features(out: Path, rows_ND: NDArray[np.float32], *, views: int = 1) -> Path:
    """Write features as a stage does."""
    identity = Stage(name="extract", version=1, kind="features", files=())
    with new_artifact(identity, out, config={}, inputs={}, context=EPOCH_0) as draft:
        batches = iter([rows_ND])
        write_features(draft.folder, batches, num_images=len(rows_ND), dtype="float32", views=views)
        draft.rows = len(rows_ND)
    return out


@pytest.fixture(scope="module")
def three(images: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return labels of three clusterings."""
    out = tmp_path_factory.mktemp("three") / "labels"
    run(images, features, out, THREE)
    return out


# Several clusterings


def test_run__a_list_of_k_clusters_once_for_each_entry(three: Path) -> None:
    facts, heads = read_manifest(three).facts, read_labels(three).heads

    assert [head.k for head in heads] == [8, 8, 5]
    assert [facts["k"], facts["k_1"], facts["k_2"]] == [8, 8, 5]
    assert [len(facts[name]) for name in ("objective", "objective_1", "objective_2")] == [20] * 3
    assert facts["empty_1"] == 8 - len(np.unique(heads[1].cluster_N))
    centroids = centroids_of(three)
    assert [len(centroids_KQ) for centroids_KQ in centroids] == [8, 8, 5]
    agreement = nmi(heads[0].cluster_N, heads[1].cluster_N)
    assert 0.2 < agreement < 1, "other random rows to start from, similar clusters"


def test_run__the_table_has_two_columns_for_each_clustering(three: Path, images: Path) -> None:
    frame, table = label_frame(three, images), pd.read_parquet(three / LABELS)

    further = ["cluster_1", "distance_1", "cluster_2", "distance_2"]
    assert list(frame.columns) == ["image_id", "path", "cluster", "distance", *further]
    pd.testing.assert_frame_equal(frame, table)
    found = read_labels(three)
    np.testing.assert_array_equal(frame["cluster_2"], found.others[1].cluster_N)
    np.testing.assert_array_equal(frame["distance_1"], found.others[0].distance_N)
    members = read_cluster(three, 3, images)
    assert {row["image_id"] for row in members} == set(np.flatnonzero(found.cluster_N == 3))


@pytest.mark.parametrize("k", [(8,), (8, 5)])
def test_run__the_first_clustering_is_that_of_a_single_number(
    k: tuple[int, ...], images: Path, features: Path, labels: Path, tmp_path: Path
) -> None:
    run(images, features, tmp_path / "out", ClusterConfig(k=k, pca_dim=16))

    found, single = read_labels(tmp_path / "out"), read_labels(labels)
    assert found.cluster_N.tobytes() == single.cluster_N.tobytes()
    assert found.distance_N.tobytes() == single.distance_N.tobytes()
    if len(k) == 1:
        for name in (LABELS, CLUSTERING):
            assert (tmp_path / "out" / name).read_bytes() == (labels / name).read_bytes()


def test_run__further_clusterings_do_not_change_with_those_before(
    images: Path, features: Path, three: Path, tmp_path: Path
) -> None:
    config = THREE.model_copy(update={"k": (20, 8)})

    run(images, features, tmp_path / "out", config)

    assert centroids_of(tmp_path / "out")[1].tobytes() == centroids_of(three)[1].tobytes()


@pytest.mark.parametrize("size", [2, 3])
def test_run__ranks_write_the_same_bytes_of_several_clusterings(
    size: int, images: Path, features: Path, three: Path, tmp_path: Path
) -> None:
    def work(ranks: Ranks) -> None:
        context = Context(seed=31, epoch=0, ranks=ranks)
        run_on_rank(images, features, tmp_path / "out", context)

    on_ranks(size, work)

    assert read_manifest(tmp_path / "out").digest == read_manifest(three).digest
    for name in (LABELS, CLUSTERING):
        assert (tmp_path / "out" / name).read_bytes() == (three / name).read_bytes()


def run_on_rank(images: Path, features: Path, out: Path, context: Context) -> None:
    stage.run(cluster=THREE, images=images, features=features, out=out, context=context)


def test_run__warm_start_keeps_the_ids_of_each_clustering(
    images: Path, features: Path, three: Path, tmp_path: Path
) -> None:
    config = THREE.model_copy(update={"warm_start": True, "iterations": 1})

    run(images, features, tmp_path / "out", config, previous=three)

    pairs = zip(read_labels(tmp_path / "out").heads, read_labels(three).heads, strict=True)
    for now, before in pairs:
        assert (now.cluster_N != before.cluster_N).mean() < 0.05


def test_run__warm_start_needs_as_many_clusterings_before(
    images: Path, features: Path, labels: Path, tmp_path: Path
) -> None:
    config = ClusterConfig(k=(8, 8), pca_dim=16, warm_start=True)

    with pytest.raises(FeatureError, match="the previous epoch has 1 of 2 clusterings"):
        run(images, features, tmp_path / "out", config, previous=labels)


def test_run__too_many_clusters_of_a_list_are_reported(
    images: Path, features: Path, tmp_path: Path
) -> None:
    with pytest.raises(FeatureError, match=r"cluster.k: 250 needs at least 250 images"):
        run(images, features, tmp_path / "out", ClusterConfig(k=(8, 250), pca_dim=16))


def test_assign__finds_the_clusters_of_every_clustering(features: Path, three: Path) -> None:
    rows_ND = rows_of(features)
    assigner = Assigner.of(read_clustering(three), whitened=False, device="cpu")
    paths = [str(row) for row in range(len(rows_ND))]

    ((found_paths, cluster_HN, distance_HN),) = assigner.assign([(paths, rows_ND)])

    assert found_paths == paths
    for head, cluster_N, distance_N in zip(
        read_labels(three).heads, cluster_HN, distance_HN, strict=True
    ):
        np.testing.assert_array_equal(cluster_N, head.cluster_N)
        np.testing.assert_allclose(distance_N, head.distance_N, atol=1e-6)


# A defect of the released code of DeepCluster-v2, which this one does not have; another one is in
# tests/core/clustering/test_grouping.py


def test_run__empty_clusters_of_every_clustering_are_refilled(images: Path, tmp_path: Path) -> None:
    # There, an empty cluster stays where it is, and no image is ever near it again.
    generator = np.random.default_rng(0)
    rows_ND = generator.standard_normal((240, 12)).astype(np.float32)
    rows_ND[:160] = rows_ND[0]  # two thirds of the centroids begin here, and lose their images
    own = own_features(tmp_path / "features", rows_ND)

    manifest = run(images, own, tmp_path / "out", THREE.model_copy(update={"k": (30, 30, 30)}))

    # The last refill may attract no image, so one or two can end empty.
    assert max(manifest.facts[name] for name in ("empty", "empty_1", "empty_2")) <= 2


# Features of several views


def test_run__clusterings_take_turns_to_use_the_views(images: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows_VND = generator.standard_normal((2, 240, 12)).astype(np.float32)
    both = own_features(tmp_path / "both", np.concatenate(rows_VND, axis=1), views=2)
    alone = [own_features(tmp_path / str(view), rows_ND) for view, rows_ND in enumerate(rows_VND)]

    run(images, both, tmp_path / "out", THREE)

    found = read_labels(tmp_path / "out").heads
    for number, head in enumerate(found):
        run(images, alone[number % 2], tmp_path / "alone", THREE)
        expected = read_labels(tmp_path / "alone").heads[number]
        assert head.cluster_N.tobytes() == expected.cluster_N.tobytes()
        assert head.distance_N.tobytes() == expected.distance_N.tobytes()


# Without a PCA


def test_run__without_a_pca_rows_are_features_of_length_1(
    images: Path, features: Path, three: Path
) -> None:
    rows_ND = rows_of(features)
    length_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    manifest, found = read_manifest(three), read_labels(three)
    (centroids_KD, *_), stored = centroids_of(three), read_clustering(three)

    assert set(stored) == {"centroids", "centroids_1", "centroids_2"}
    assert centroids_KD.shape == (8, manifest.facts["pca_dim"]) == (8, rows_ND.shape[1])
    away_NKD = (rows_ND / length_N1)[:, None] - centroids_KD[None]
    distance_NK = np.linalg.norm(away_NKD, axis=2)
    np.testing.assert_array_equal(distance_NK.argmin(axis=1), found.cluster_N)
    np.testing.assert_allclose(distance_NK.min(axis=1), found.distance_N, atol=1e-5)


def test_run__facts_of_features_do_not_depend_on_the_pca(labels: Path, three: Path) -> None:
    with_pca, without = read_manifest(labels).facts, read_manifest(three).facts

    for name in ("effective_rank", "dead_features"):
        assert without[name] == with_pca[name]


def test_run__a_feature_of_zeros_stays_zero_without_a_pca(images: Path, tmp_path: Path) -> None:
    rows_ND = np.random.default_rng(0).standard_normal((240, 12)).astype(np.float32)
    rows_ND[7] = 0
    own = own_features(tmp_path / "features", rows_ND)

    run(images, own, tmp_path / "out", THREE)

    # At a distance of one from each centroid, which has length one.
    assert read_labels(tmp_path / "out").distance_N[7] == pytest.approx(1, abs=1e-5)


def test_run__fewer_images_than_values_need_no_pca(images: Path, tmp_path: Path) -> None:
    rows_ND = np.random.default_rng(0).standard_normal((240, 300)).astype(np.float32)
    own = own_features(tmp_path / "features", rows_ND)

    manifest = run(images, own, tmp_path / "out", THREE)

    assert manifest.facts["pca_dim"] == 300
    assert manifest.facts["effective_rank"] > 50


def test_run__refuses_to_whiten_without_a_pca(images: Path, features: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"so cluster.whiten must be false"):
        run(images, features, tmp_path / "out", ClusterConfig(k=8, pca_dim="none"))


# Least size


def test_run__every_cluster_of_every_clustering_has_its_least_size(
    images: Path, features: Path, tmp_path: Path
) -> None:
    config = THREE.model_copy(update={"k": (10, 12), "least_size": 0.9})

    manifest = run(images, features, tmp_path / "out", config)

    for head, least in zip(read_labels(tmp_path / "out").heads, (21, 18), strict=True):
        assert np.bincount(head.cluster_N, minlength=head.k).min() >= least
    assert manifest.facts["empty"] == 0
    assert manifest.config["cluster"]["least_size"] == 0.9


def test_run__refuses_a_least_size_on_several_ranks(
    images: Path, features: Path, tmp_path: Path
) -> None:
    config = ClusterConfig(k=8, pca_dim=16, least_size=0.5)

    def work(ranks: Ranks) -> None:
        context = Context(seed=31, epoch=0, ranks=ranks)
        with pytest.raises(
            ConfigError, match=r"cluster\.least_size: 0\.5 works on one rank, not on 2"
        ):
            stage.run(
                cluster=config,
                images=images,
                features=features,
                out=tmp_path / str(ranks.rank),
                context=context,
            )

    on_ranks(2, work)
