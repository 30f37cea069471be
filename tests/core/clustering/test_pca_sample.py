"""The PCA of a random sample of images. Suffixes: N images, D dimensions, S sampled."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.clustering import kmeans, moments
from deepcluster_core.clustering.grouping import Grouping, group
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.pca import fit_pca
from deepcluster_core.clustering.pca_sample import sample_ids
from deepcluster_core.context import Context
from deepcluster_core.errors import FeatureError
from deepcluster_core.ranks import Ranks
from tests.support.ranks import on_ranks

COUNT, DIM, SAMPLE = 9000, 40, 3000


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deal rows to ranks in small units, so that tests need few rows."""
    monkeypatch.setattr(moments, "UNIT_ROWS", 1024)
    monkeypatch.setattr(kmeans, "UNIT_ROWS", 2048)


def rows() -> np.ndarray:
    generator = np.random.default_rng(0)
    rows_ND = generator.standard_normal((COUNT, DIM)) * np.linspace(0.1, 1, DIM) + 5
    return rows_ND.astype(np.float32)


def grouped(folder: Path, size: int, *, sample: int | None, epoch: int = 0) -> list[Grouping]:
    def work(ranks: Ranks) -> Grouping:
        return group(
            Features(folder),
            [KMeans(30, iterations=3)],
            Context(seed=3, epoch=epoch, ranks=ranks),
            pca_dim=8,
            whitened=True,
            clip=True,
            pca_sample=sample,
        )

    return on_ranks(size, work)


def test_sample_ids__are_distinct_ascending_and_other_in_each_epoch() -> None:
    id_S = sample_ids(COUNT, SAMPLE, seed=3, epoch=0)
    other_S = sample_ids(COUNT, SAMPLE, seed=3, epoch=1)
    assert id_S is not None
    assert other_S is not None

    assert len(id_S) == SAMPLE
    assert (np.diff(id_S) > 0).all()
    # Half of them lie in the lower half of the images; 0.05 is five standard deviations.
    assert abs((id_S < COUNT // 2).mean() - 0.5) < 0.05
    assert len(np.intersect1d(id_S, other_S)) < 0.5 * SAMPLE, "a third, if they are independent"


@pytest.mark.parametrize("size", [COUNT, COUNT + 1, None])
def test_sample_ids__none_if_all_images_are_used(size: int | None) -> None:
    assert sample_ids(COUNT, size, seed=3, epoch=0) is None


def test_group__fits_the_pca_to_the_sample_alone(tmp_path: Path) -> None:
    rows_ND = rows()
    write_features(tmp_path, iter([rows_ND]), num_images=COUNT, dtype="float32")
    id_S = sample_ids(COUNT, SAMPLE, seed=3, epoch=2)
    assert id_S is not None

    (found,) = grouped(tmp_path, 1, sample=SAMPLE, epoch=2)

    expected = fit_pca([torch.from_numpy(rows_ND[id_S])], dim=8, num_rows=SAMPLE)
    assert torch.equal(found.pca.components_QD, expected.components_QD)
    assert torch.equal(found.pca.eigenvalues_Q, expected.eigenvalues_Q)
    assert len(found.fit.cluster_N) == COUNT, "all images are clustered"
    (whole,) = grouped(tmp_path, 1, sample=None, epoch=2)
    assert not torch.equal(found.pca.eigenvalues_Q, whole.pca.eigenvalues_Q)
    # Variances of 3,000 rows: relative standard error sqrt(2 / 3000) = 0.026, four times that.
    assert torch.allclose(found.pca.eigenvalues_Q, whole.pca.eigenvalues_Q, rtol=0.1)


def test_group__a_sample_has_the_same_bytes_for_any_number_of_ranks(tmp_path: Path) -> None:
    write_features(tmp_path, iter([rows()]), num_images=COUNT, dtype="float16")
    (alone,) = grouped(tmp_path, 1, sample=SAMPLE)

    for size in (2, 3, 4):
        first, *others = grouped(tmp_path, size, sample=SAMPLE)
        assert first.fit.cluster_N.tobytes() == alone.fit.cluster_N.tobytes()
        for made in (first, *others):
            for name, array in alone.arrays().items():
                assert made.arrays()[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("is_sampled", [True, False])
def test_group__names_an_image_whose_feature_is_not_finite(
    *, is_sampled: bool, tmp_path: Path
) -> None:
    rows_ND = rows()
    id_S = sample_ids(COUNT, SAMPLE, seed=3, epoch=0)
    assert id_S is not None
    bad = int(id_S[17]) if is_sampled else int(np.setdiff1d(np.arange(COUNT), id_S)[17])
    rows_ND[bad, 3] = np.inf
    write_features(tmp_path, iter([rows_ND]), num_images=COUNT, dtype="float32")

    with pytest.raises(FeatureError, match=f"image_id {bad}: its feature is not finite"):
        grouped(tmp_path, 1, sample=SAMPLE)
