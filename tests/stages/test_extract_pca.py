"""Features that are stored reduced by a PCA. Suffixes: N images, Q dimensions kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import FEATURES, STORED_PCA
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_clustering, read_labels
from deepcluster_core.clustering.stored_pca import read_pca
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError, ConfigError, FeatureError
from deepcluster_core.inspection.rows import clustered_rows
from deepcluster_core.metrics import nmi
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.ranks import Ranks
from stages.cluster import ClusterConfig, cluster
from stages.extract import SAMPLE, ExtractConfig, ReducedConfig, extract
from tests.support.ranks import on_ranks

CONTEXT = Context(seed=31, epoch=0)
DIM = 16
PLAIN = ExtractConfig(resize=20, batch_size=16, precision="float32")
REDUCED = PLAIN.model_copy(update={"pca": ReducedConfig(dim=DIM, sample=100)})
OF_ALL = PLAIN.model_copy(update={"pca": ReducedConfig(dim=DIM, sample=1000)})
CLUSTER = ClusterConfig(k=8, pca_dim=DIM)


class Cut(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def extracted(
    images: Path,
    network: NetworkConfig,
    out: Path,
    config: ExtractConfig = REDUCED,
    *,
    checkpoint: Path | None = None,
    size: int = 1,
    cut_at: int = 10**6,
) -> dict[str, str]:
    """Extract features, unless a rank has seen so many images; return the digest of each file."""
    seen: list[int] = []

    def progress(done: int, total: int | None) -> None:
        seen.append(done)
        if len(seen) * PLAIN.batch_size >= cut_at:
            raise Cut

    def work(ranks: Ranks) -> None:
        extract.run(
            extract=config,
            network=network,
            images=images,
            checkpoint=checkpoint,
            out=out,
            context=replace(CONTEXT, ranks=ranks, progress=progress),
        )

    on_ranks(size, work)
    return {name: record.sha256 for name, record in read_manifest(out).files.items()}


def rows_of(folder: Path) -> NDArray[np.float32]:
    return np.concatenate(list(Features(folder).blocks())).astype(np.float32)


def clustered(images: Path, features: Path, out: Path, config: ClusterConfig = CLUSTER) -> Path:
    cluster.run(cluster=config, images=images, features=features, out=out, context=CONTEXT)
    return out


@pytest.fixture(scope="module")
def reduced(images: Path, network: NetworkConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reduced") / "features"
    extracted(images, network, out)
    return out


def test_extract__stores_the_whitened_components_of_the_features(
    images: Path, network: NetworkConfig, reduced: Path, tmp_path: Path
) -> None:
    extracted(images, network, tmp_path / "whole", PLAIN)
    pca = read_pca(reduced)

    expected_NQ = pca.components_of(torch.from_numpy(rows_of(tmp_path / "whole"))).numpy()

    array = zarr.open_array(reduced / FEATURES, mode="r")
    assert (array.shape, array.dtype) == ((240, DIM), np.float16)
    # float16 rounds the stored features by 2^-11 each, and the components likewise.
    np.testing.assert_allclose(np.asarray(array[:]), expected_NQ, atol=0.05)
    assert inspect(reduced)[0] is Condition.WHOLE
    assert not (reduced / SAMPLE).exists()
    assert read_manifest(reduced).facts["dim"] == 256, "that of the network's feature"


def test_extract__fits_the_pca_that_the_cluster_stage_fits_to_the_same_sample(
    images: Path, network: NetworkConfig, reduced: Path, tmp_path: Path
) -> None:
    extracted(images, network, tmp_path / "whole", PLAIN)
    config = ClusterConfig(k=8, pca_dim=DIM, pca_sample=100)

    labels = clustered(images, tmp_path / "whole", tmp_path / "labels", config)

    ours, theirs = read_pca(reduced), read_clustering(labels)
    # The same images, but in batches with others, which may change the last bit of a feature.
    np.testing.assert_allclose(ours.mean_D, theirs["pca_mean"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.eigenvalues_Q, theirs["pca_eigenvalues"], rtol=1e-2)


@pytest.mark.parametrize("whiten", [True, False])
def test_cluster__reduced_features_give_the_clusters_of_whole_ones(
    images: Path, network: NetworkConfig, tmp_path: Path, *, whiten: bool
) -> None:
    extracted(images, network, tmp_path / "whole", PLAIN)
    extracted(images, network, tmp_path / "reduced", OF_ALL)
    config = CLUSTER.model_copy(update={"whiten": whiten})

    whole = clustered(images, tmp_path / "whole", tmp_path / "1", config)
    labels = clustered(images, tmp_path / "reduced", tmp_path / "2", config)

    # Only the rounding to float16 differs, which may move an image between two near centroids.
    assert nmi(read_labels(whole).cluster_N, read_labels(labels).cluster_N) > 0.9
    before, after = read_manifest(whole).facts, read_manifest(labels).facts
    assert after["effective_rank"] == pytest.approx(before["effective_rank"], rel=1e-3)
    assert after["pca_dim"] == before["pca_dim"] == DIM
    for undo in (False, True):
        np.testing.assert_allclose(
            clustered_rows(tmp_path / "reduced", labels, undo_whitening=undo),
            clustered_rows(tmp_path / "whole", whole, undo_whitening=undo),
            atol=5e-3 * max(1.0, float(read_pca(tmp_path / "reduced").eigenvalues_Q[0] ** 0.5)),
        )


def test_cluster__labels_of_reduced_features_assign_whole_ones(
    images: Path, network: NetworkConfig, reduced: Path, tmp_path: Path
) -> None:
    extracted(images, network, tmp_path / "whole", PLAIN)
    labels = clustered(images, reduced, tmp_path / "labels")

    arrays = read_clustering(labels)
    projected_NQ = (rows_of(tmp_path / "whole") - arrays["pca_mean"]) @ arrays["pca_components"].T
    whitened_NQ = projected_NQ / np.sqrt(arrays["pca_eigenvalues"])
    whitened_NQ /= np.linalg.norm(whitened_NQ, axis=1, keepdims=True)
    distance_NK = np.linalg.norm(whitened_NQ[:, None] - arrays["centroids"][None], axis=2)

    same_N = distance_NK.argmin(axis=1) == read_labels(labels).cluster_N
    assert same_N.mean() > 0.98, "all but images at the border of two clusters"


@pytest.fixture(scope="module")
def trained(
    images: Path,
    network: NetworkConfig,
    checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return reduced features of a checkpoint: threads cannot draw random weights at once."""
    out = tmp_path_factory.mktemp("trained") / "features"
    extracted(images, network, out, checkpoint=checkpoint)
    return out


@pytest.mark.parametrize("size", [2, 3])
def test_extract__any_number_of_ranks_writes_the_same_bytes(
    images: Path,
    network: NetworkConfig,
    checkpoint: Path,
    trained: Path,
    tmp_path: Path,
    size: int,
) -> None:
    out = tmp_path / "together"
    together = extracted(images, network, out, size=size, checkpoint=checkpoint)

    alone = read_manifest(trained)
    assert together == {name: record.sha256 for name, record in alone.files.items()}
    assert STORED_PCA in together
    assert read_manifest(out).key == alone.key


@pytest.mark.parametrize("cut_at", [16, 64, 112, 128, 240])
@pytest.mark.parametrize("ranks", [(1, 1), (2, 3)])
def test_extract__goes_on_from_the_sample_or_from_the_pca(
    images: Path,
    network: NetworkConfig,
    checkpoint: Path,
    trained: Path,
    tmp_path: Path,
    cut_at: int,
    ranks: tuple[int, int],
) -> None:
    before, after = ranks
    out = tmp_path / "cut"
    with pytest.raises(Cut):
        extracted(images, network, out, size=before, cut_at=cut_at, checkpoint=checkpoint)
    assert inspect(out)[0] is Condition.UNFINISHED

    whole = {name: record.sha256 for name, record in read_manifest(trained).files.items()}
    assert extracted(images, network, out, size=after, checkpoint=checkpoint) == whole
    assert not (out / SAMPLE).exists()


def test_extract__begins_again_if_the_pca_of_an_attempt_is_damaged(
    images: Path, network: NetworkConfig, checkpoint: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cut"
    with pytest.raises(Cut):
        extracted(images, network, out, cut_at=240, checkpoint=checkpoint)
    (out / STORED_PCA).write_bytes((out / STORED_PCA).read_bytes()[:-8])

    whole = {name: record.sha256 for name, record in read_manifest(trained).files.items()}
    assert extracted(images, network, out, checkpoint=checkpoint) == whole


def test_cluster__names_a_damaged_pca(images: Path, network: NetworkConfig, tmp_path: Path) -> None:
    extracted(images, network, tmp_path / "features")
    path = tmp_path / "features" / STORED_PCA
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(ArtifactError, match=STORED_PCA):
        clustered(images, tmp_path / "features", tmp_path / "labels")


def test_extract__refuses_more_components_than_images(
    images: Path, network: NetworkConfig, tmp_path: Path
) -> None:
    config = PLAIN.model_copy(update={"pca": ReducedConfig(dim=240, sample=1000)})

    with pytest.raises(FeatureError, match=r"extract\.pca\.dim is 240, but 240 images have at mo"):
        extracted(images, network, tmp_path, config)


@pytest.mark.parametrize(
    "config", [ClusterConfig(k=8, pca_dim=8), ClusterConfig(k=8, pca_dim=DIM, pca_sample=99)]
)
def test_cluster__refuses_another_pca(
    images: Path, reduced: Path, tmp_path: Path, config: ClusterConfig
) -> None:
    with pytest.raises(ConfigError, match=r"reduced to 16 dimensions already.*\n.*extract\.pca"):
        clustered(images, reduced, tmp_path / "labels", config)
