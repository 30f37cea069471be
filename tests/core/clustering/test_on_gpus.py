"""On which device clustering computes, shown with GPUs that hold no numbers.

Suffixes: N rows, D and Q dimensions, K clusters.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.clustering import device_rows, faiss_index, least_size, pca
from deepcluster_core.clustering.assign import Assigner
from deepcluster_core.clustering.device_rows import points_of
from deepcluster_core.clustering.grouping import Grouping, group
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.pca import fit_pca
from deepcluster_core.clustering.points import DevicePoints, Points
from deepcluster_core.clustering.rows import InMemory
from deepcluster_core.clustering.torch_index import TorchIndex
from deepcluster_core.context import Context
from deepcluster_core.inspection.neighbours import NeighbourSearch
from deepcluster_core.ranks import ALONE
from tests.support.clustering_rows import unit_rows
from tests.support.fake_cuda import Seen, fake_gpus

ON_GPU = {"cpu", "cuda:1"}
Fakes = Callable[..., AbstractContextManager[Seen]]


def ones(tensor: Tensor, **_: object) -> NDArray[Any]:
    """Return what a tensor without numbers might hold: valid as clusters, sizes and distances."""
    shape = tuple(tensor.shape)
    if tensor.dtype == torch.bool:
        return np.zeros(shape, np.bool_)  # no row is bad
    return np.ones(shape, str(tensor.dtype).removeprefix("torch."))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Return a context with GPUs that faiss cannot use, and whose free memory can be set."""

    @contextmanager
    def on_fakes(free_bytes: int = 80 << 30) -> Iterator[Seen]:
        monkeypatch.setattr(device_rows, "free_bytes", lambda _device: free_bytes)
        monkeypatch.setattr(faiss_index, "_num_gpus", lambda: 0)
        with fake_gpus() as seen, monkeypatch.context() as patch:
            patch.setattr(Tensor, "numpy", ones)
            # Without numbers there is neither a rank nor a number of eigenvalues above the noise.
            patch.setattr(pca, "check_rank", lambda *_, **__: None)
            patch.setattr(pca, "rankme", lambda *_, **__: 1.0)
            patch.setattr(pca, "alpha", lambda *_, **__: None)
            yield seen

    return on_fakes


@pytest.mark.parametrize(
    "settings",
    [{}, {"spherical": True}, {"max_points_per_centroid": 10}],
    ids=str,
)
@pytest.mark.parametrize("free_bytes", [80 << 30, 0], ids=["rows fit", "rows do not fit"])
def test_kmeans__on_one_gpu(settings: dict[str, Any], free_bytes: int, fakes: Fakes) -> None:
    with fakes(free_bytes) as seen:
        fit = KMeans(10, 3, **settings).fit(InMemory(unit_rows(3000)), seed=0, device="cuda:1")

    assert seen == ON_GPU
    assert len(fit.cluster_N) == 3000


@pytest.mark.parametrize(("free_bytes", "kind"), [(0, Points), (80 << 30, DevicePoints)])
@pytest.mark.parametrize("sample_S", [None, np.arange(0, 500, 5)], ids=["all", "a sample"])
def test_points_of__stay_in_main_memory_if_the_gpu_is_full(
    free_bytes: int,
    kind: type,
    sample_S: NDArray[np.int64] | None,
    fakes: Fakes,
) -> None:
    rows = InMemory(unit_rows(500))
    own = range(500 if sample_S is None else 100)

    with fakes(free_bytes):
        points = points_of(rows, sample_S, own, ranks=ALONE, device="cuda:1", k=5)

    assert isinstance(points, kind)
    assert points.own_SQ.shape == (len(own), 8)


def test_kmeans__catches_centroids_on_another_device(
    monkeypatch: pytest.MonkeyPatch,
    fakes: Fakes,
) -> None:
    """What the other tests are for: one tensor left on the CPU fails."""

    def add(index: TorchIndex, vectors_VQ: NDArray[np.float32]) -> None:
        index._vectors_VQ = torch.zeros(vectors_VQ.shape)  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(TorchIndex, "add", add)
    with fakes(), pytest.raises(RuntimeError, match="device"):
        KMeans(10, 3).fit(InMemory(unit_rows(3000)), seed=0, device="cuda:1")


def test_least_size__lists_candidates_on_one_gpu(fakes: Fakes) -> None:
    rows_NQ, centroids_KQ = unit_rows(300), unit_rows(5)
    cluster_N = np.zeros(300, np.int32)

    with fakes() as seen:
        quota = least_size.Quota(lambda: iter([rows_NQ]), centroids_KQ, 3, "cuda:1")
        auction = least_size._Auction(quota, cluster_N, unit_rows(300, 1)[:, 0])  # pyright: ignore[reportPrivateUsage]
        auction._list_candidates([1, 2])  # pyright: ignore[reportPrivateUsage]

    assert seen == ON_GPU


def features(folder: Path, *, views: int = 1) -> Features:
    rows_ND = np.random.default_rng(0).standard_normal((3000, 32 * views)).astype(np.float16)
    write_features(folder, iter([rows_ND]), num_images=3000, dtype="float16", views=views)
    return Features(folder)


def grouped(found: Features, pca_dim: int | None, heads: int = 1) -> Grouping:
    context = Context(seed=3, epoch=0, device="cuda:1")
    return group(
        found,
        [KMeans(10, 2) for _ in range(heads)],
        context,
        pca_dim=pca_dim,
        whitened=pca_dim is not None,
        clip=False,
    )


@pytest.mark.parametrize("pca_dim", [8, None])
def test_group__on_one_gpu(pca_dim: int | None, fakes: Fakes, tmp_path: Path) -> None:
    found = features(tmp_path)

    with fakes() as seen:
        grouping = grouped(found, pca_dim)

    assert seen == ON_GPU
    assert len(grouping.fit.cluster_N) == 3000


@pytest.mark.parametrize(("free_bytes", "reads"), [(80 << 30, 1), (0, 2)])
def test_group__reads_features_once_if_they_fit_on_the_gpu(
    free_bytes: int,
    reads: int,
    fakes: Fakes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = features(tmp_path)
    read: list[object] = []
    blocks = Features.blocks

    def counting(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        read.append(named)
        return blocks(*given, **named)

    monkeypatch.setattr(Features, "blocks", counting)
    with fakes(free_bytes):
        grouped(found, 8)

    assert len(read) == reads


def test_group__reads_other_views_from_the_disk(fakes: Fakes, tmp_path: Path) -> None:
    found = features(tmp_path, views=2)

    with fakes() as seen:
        grouping = grouped(found, 8, heads=3)

    assert seen == ON_GPU
    assert [len(fit.cluster_N) for fit in grouping.fits] == [3000] * 3


def test_assigner__on_one_gpu(fakes: Fakes) -> None:
    raw_ND = np.random.default_rng(0).standard_normal((900, 8), np.float32)
    fitted = fit_pca([torch.from_numpy(raw_ND)], dim=4)
    centroids_KQ = unit_rows(5, 4)

    with fakes() as seen:
        assigner = Assigner(fitted, (centroids_KQ,), device="cuda:1")
        found = list(assigner.assign([([str(n) for n in range(900)], raw_ND)]))

    assert seen == ON_GPU
    assert len(found) == 1


def test_neighbour_search__on_one_gpu(fakes: Fakes) -> None:
    with fakes() as seen:
        search = NeighbourSearch(unit_rows(500), device="cuda:1")
        search._index.search(unit_rows(20), 4)  # pyright: ignore[reportPrivateUsage]

    assert seen == ON_GPU
