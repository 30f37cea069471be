"""Features in, labels out. Suffixes: N images, D dims, Q dims kept, K clusters."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.artifacts.file_names import INDEX, LABELS
from deepcluster_core.artifacts.manifest import (
    Condition,
    Manifest,
    Stage,
    inspect,
    read_manifest,
)
from deepcluster_core.artifacts.tables import read_clustering, read_labels
from deepcluster_core.clustering.pic_config import PicConfig
from deepcluster_core.context import Context
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.ranks import Ranks
from stages.cluster import ClusterConfig, Sizes
from stages.cluster import cluster as stage
from tests.support.documentation import DOCS, blocks
from tests.support.ranks import on_ranks

CONTEXT = Context(seed=31, epoch=0)


def cluster(
    images: Path,
    features: Path,
    out: Path,
    *,
    config: ClusterConfig | None = None,
    context: Context = CONTEXT,
) -> Manifest:
    config = config or ClusterConfig(k=8, pca_dim=16)
    stage.run(cluster=config, images=images, features=features, out=out, context=context)
    return read_manifest(out)


def own_features(out: Path, rows_ND: NDArray[np.float32]) -> Path:
    """Write rows as the extract stage does."""
    identity = Stage(name="extract", version=1, kind="features", files=())
    with new_artifact(identity, out, config={}, inputs={}, context=CONTEXT) as draft:
        write_features(out, iter([rows_ND]), num_images=len(rows_ND), dtype="float32")
        draft.rows = len(rows_ND)
    return out


def test_run__every_image_gets_a_label(images: Path, labels: Path) -> None:
    manifest, found = read_manifest(labels), read_labels(labels)

    assert inspect(labels)[0] is Condition.WHOLE
    assert (manifest.rows, manifest.facts["k"], found.k) == (240, 8, 8)
    assert (found.cluster_N.min(), found.cluster_N.max()) == (0, 7)
    assert manifest.facts["empty"] == 8 - len(np.unique(found.cluster_N))
    assert len(manifest.facts["objective"]) == 20, "one value an iteration"
    assert 1 <= manifest.facts["effective_rank"] <= 256
    index, table = pd.read_parquet(images / INDEX), pd.read_parquet(labels / LABELS)
    assert table.path.tolist() == index.path.tolist()


def test_run__what_lies_beside_the_labels_assigns_images_anew(features: Path, labels: Path) -> None:
    found, stored = read_labels(labels), read_clustering(labels)
    rows_ND = np.concatenate(list(Features(features).blocks())).astype(np.float32)

    projected_NQ = (rows_ND - stored["pca_mean"]) @ stored["pca_components"].T
    whitened_NQ = projected_NQ / np.sqrt(stored["pca_eigenvalues"])
    whitened_NQ /= np.linalg.norm(whitened_NQ, axis=1, keepdims=True)
    distance_NK = np.linalg.norm(whitened_NQ[:, None] - stored["centroids"][None], axis=2)

    assert stored["centroids"].shape == (8, 16)
    np.testing.assert_array_equal(distance_NK.argmin(axis=1), found.cluster_N)
    # float32 in another order; faiss squares distances of order 1: roots of 1e-7 roundings.
    np.testing.assert_allclose(distance_NK.min(axis=1), found.distance_N, atol=1e-3)


def test_run__same_inputs_and_seed_same_digest(
    images: Path, features: Path, labels: Path, tmp_path: Path
) -> None:
    again = cluster(images, features, tmp_path / "1", context=Context(seed=31, epoch=0, workers=9))
    seed = cluster(images, features, tmp_path / "2", context=Context(seed=32, epoch=0))
    epoch = cluster(images, features, tmp_path / "3", context=Context(seed=31, epoch=1))

    assert again.digest == read_manifest(labels).digest
    assert again.key == read_manifest(labels).key
    assert len({again.digest, seed.digest, epoch.digest}) == 3


def test_run__finds_groups_that_are_there(images: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    group_N = generator.integers(4, size=240)
    centre_KD = 10 * np.eye(4, 12, dtype=np.float32)
    rows_ND = centre_KD[group_N] + generator.normal(size=(240, 12)).astype(np.float32)
    features = own_features(tmp_path / "features", rows_ND)

    cluster(images, features, tmp_path / "out", config=ClusterConfig(k=4, pca_dim=3))

    cluster_N = read_labels(tmp_path / "out").cluster_N
    assert len(set(zip(cluster_N, group_N, strict=True))) == 4, "one cluster for each group"


def test_run__without_whitening_the_largest_spread_rules(images: Path, tmp_path: Path) -> None:
    # Two groups along the first axis, two along the second, a hundred times closer together.
    generator = np.random.default_rng(1)
    far_N, near_N = generator.integers(2, size=(2, 240))
    rows_ND = generator.normal(scale=0.01, size=(240, 6)).astype(np.float32)
    rows_ND[:, 0] += 100 * far_N
    rows_ND[:, 1] += 1 * near_N
    features = own_features(tmp_path / "features", rows_ND)

    def groups(*, whiten: bool, k: int) -> int:
        config = ClusterConfig(k=k, pca_dim=2, whiten=whiten)
        cluster(images, features, tmp_path / "out", config=config)
        cluster_N = read_labels(tmp_path / "out").cluster_N
        return len(set(zip(cluster_N, near_N, strict=True)))

    assert groups(whiten=True, k=4) == 4, "whitened, the near groups are as far apart"
    assert groups(whiten=False, k=2) == 4, "unwhitened, each cluster holds both near groups"


def test_run__fits_on_a_sample_but_labels_all(images: Path, features: Path, tmp_path: Path) -> None:
    config = ClusterConfig(k=8, pca_dim=16, max_points_per_centroid=10)

    manifest = cluster(images, features, tmp_path / "out", config=config)

    assert manifest.facts["fitted_on"] == 80
    assert manifest.rows == len(read_labels(tmp_path / "out").cluster_N) == 240


# Other clusterings


def test_run__spherical_centroids_have_length_1(
    images: Path, features: Path, tmp_path: Path
) -> None:
    config = ClusterConfig(algorithm="spherical", k=8, pca_dim=16)

    cluster(images, features, tmp_path / "out", config=config)

    centroids_KQ = read_clustering(tmp_path / "out")["centroids"]
    np.testing.assert_allclose(np.linalg.norm(centroids_KQ, axis=1), 1, atol=1e-6)


def test_run__pic_finds_the_number_of_clusters(
    images: Path, features: Path, tmp_path: Path
) -> None:
    config = ClusterConfig(algorithm="pic", pca_dim=16)

    manifest = cluster(images, features, tmp_path / "out", config=config)

    found = read_labels(tmp_path / "out")
    assert 2 <= found.k == manifest.facts["k"] == found.cluster_N.max() + 1 <= 120
    assert manifest.config["cluster"]["k"] == "auto"
    assert read_clustering(tmp_path / "out")["centroids"].shape == (found.k, 16)


def test_run__python_takes_a_clusterer_of_scikit_learn(
    images: Path, features: Path, tmp_path: Path
) -> None:
    config = ClusterConfig(
        algorithm="python:sklearn.cluster:MiniBatchKMeans",
        options={"batch_size": 64, "n_init": 3},
        k=8,
        pca_dim=16,
    )

    manifest = cluster(images, features, tmp_path / "1", config=config)
    again = cluster(images, features, tmp_path / "2", config=config)

    assert manifest.facts["k"] == read_labels(tmp_path / "1").k == 8
    assert (manifest.digest, manifest.key) == (again.digest, again.key), "the seed is the run's"


def test_run__python_takes_the_clusterer_of_the_docs(
    images: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "how-to/clustering.md").read_text(encoding="utf-8")
    (code,) = blocks(page, "python")
    (tmp_path / "my_clusterer.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    config = ClusterConfig(algorithm="python:my_clusterer:make_clusterer", k=8, pca_dim=16)

    manifest = cluster(images, features, tmp_path / "out", config=config)

    assert manifest.facts["k"] == 8


def test_run__key_depends_on_the_algorithm_and_its_settings(
    images: Path, features: Path, labels: Path, tmp_path: Path
) -> None:
    python = "python:sklearn.cluster:MiniBatchKMeans"
    configs = [
        ClusterConfig(k=8, pca_dim=16, algorithm="spherical"),
        ClusterConfig(pca_dim=16, algorithm="pic"),
        ClusterConfig(pca_dim=16, algorithm="pic", pic=PicConfig(neighbours=4)),
        ClusterConfig(k=8, pca_dim=16, algorithm=python),
        ClusterConfig(k=8, pca_dim=16, algorithm=python, options={"batch_size": 64}),
    ]
    keys = {cluster(images, features, tmp_path / "out", config=config).key for config in configs}

    assert len({read_manifest(labels).key, *keys}) == 6


def test_run__warm_start_keeps_ids_and_is_part_of_the_key(
    images: Path, features: Path, labels: Path, tmp_path: Path
) -> None:
    config = ClusterConfig(k=8, pca_dim=16, iterations=1, warm_start=True)
    made = {}
    for name, previous in (("cold", None), ("warm", labels)):
        stage.run(
            cluster=config,
            images=images,
            features=features,
            previous=previous,
            out=tmp_path / name,
            context=Context(seed=31, epoch=1),
        )
        made[name] = read_manifest(tmp_path / name)

    moved = read_labels(tmp_path / "warm").cluster_N != read_labels(labels).cluster_N
    assert moved.mean() < 0.05
    assert (read_labels(tmp_path / "cold").cluster_N != read_labels(labels).cluster_N).mean() > 0.5
    assert made["warm"].inputs["previous"] == read_manifest(labels).digest
    assert "previous" not in made["cold"].inputs
    assert made["warm"].key != made["cold"].key


# Refused


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ClusterConfig(k=241, pca_dim=16), "cluster.k: 241 needs at least 241 images"),
        (ClusterConfig(k=8, pca_dim=240), "cluster.pca_dim: 240 needs at least 241 images"),
    ],
    ids=["k", "pca_dim"],
)
def test_run__refuses_too_few_images_in_the_users_words(
    images: Path, features: Path, tmp_path: Path, config: ClusterConfig, words: str
) -> None:
    with pytest.raises(FeatureError, match=rf"{words}, but there are 240\.\n  Fix: "):
        cluster(images, features, tmp_path / "out", config=config)

    assert inspect(tmp_path / "out")[0] is Condition.UNFINISHED


def test_run__refuses_features_that_are_not_finite(images: Path, tmp_path: Path) -> None:
    rows_ND = np.random.default_rng(0).normal(size=(240, 12)).astype(np.float32)
    rows_ND[[5, 9], 3] = np.nan
    features = own_features(tmp_path / "features", rows_ND)

    with pytest.raises(FeatureError, match=r"2 of 240 feature rows.* row 5"):
        cluster(images, features, tmp_path / "out", config=ClusterConfig(k=4, pca_dim=3))


def test_run__refuses_more_dimensions_than_the_features_have(images: Path, tmp_path: Path) -> None:
    rows_ND = np.random.default_rng(0).normal(size=(240, 12)).astype(np.float32)
    features = own_features(tmp_path / "features", rows_ND)

    with pytest.raises(FeatureError, match="pca_dim"):
        cluster(images, features, tmp_path / "out", config=ClusterConfig(k=4, pca_dim=13))


def test_run__refuses_several_ranks_for_an_algorithm_of_one_process(
    images: Path, features: Path, tmp_path: Path
) -> None:
    config = ClusterConfig(algorithm="pic", pca_dim=16)

    def run(ranks: Ranks) -> None:
        context = Context(seed=31, epoch=0, ranks=ranks)
        out = tmp_path / str(ranks.rank)
        with pytest.raises(ConfigError, match=r"algorithm: pic works on one rank, not on 2"):
            stage.run(cluster=config, images=images, features=features, out=out, context=context)

    on_ranks(2, run)


# Sizes that follow the number of images

AUTO = ClusterConfig(k="auto", pca_dim="auto")


@pytest.mark.parametrize(
    ("num_images", "dim", "k", "pca_dim"),
    [
        (2, 256, 2, 1),  # two images differ in one direction
        (3, 256, 2, 2),
        (19, 256, 2, 2),
        (50, 256, 5, 5),
        (240, 7, 10, 2),
        (240, 1, 10, 1),
        (240, 256, 10, 24),
        (10_000, 256, 100, 64),
        (1_281_167, 4096, 10_000, 256),
        (100_000_000, 4096, 10_000, 256),
    ],
)
def test_sizes__auto_follows_the_number_of_images(
    num_images: int, dim: int, k: int, pca_dim: int
) -> None:
    assert Sizes.of(AUTO, num_images=num_images, dim=dim) == Sizes(k, pca_dim)


def test_sizes__numbers_overrule_auto() -> None:
    config = ClusterConfig(k=7, pca_dim="auto")

    assert Sizes.of(config, num_images=240, dim=256) == Sizes(7, 24)


def test_sizes__embeddings_are_whitened_in_all_their_dimensions() -> None:
    config = ClusterConfig(algorithm="spherical", k="auto", pca_dim="auto", whiten="zca")

    assert Sizes.of(config, num_images=7_700, dim=128).pca_dim == 128
    assert Sizes.of(config, num_images=300, dim=128).pca_dim == 30


def test_run__auto_is_written_as_numbers(images: Path, features: Path, tmp_path: Path) -> None:
    manifest = cluster(images, features, tmp_path / "out", config=AUTO)

    assert manifest.config["cluster"]["k"] == "auto", "what was asked for"
    assert manifest.facts["k"] == read_labels(tmp_path / "out").k == 10, "and what it came to"
    assert read_clustering(tmp_path / "out")["centroids"].shape == (10, 24)
