"""On which device faiss computes.

There is no GPU here: a stand-in for faiss records on which one an index would be put, and computes
on the CPU.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from deepcluster_core.clustering import assign as assigning
from deepcluster_core.clustering import faiss_index
from deepcluster_core.clustering.assign import Assigner
from deepcluster_core.clustering.fit import Fit
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.nearest import Nearest, assign
from deepcluster_core.clustering.pca import fit_pca
from deepcluster_core.clustering.pic import Pic
from deepcluster_core.clustering.pic_config import PicConfig
from deepcluster_core.clustering.rows import InMemory
from deepcluster_core.errors import ConfigError
from tests.support.clustering_rows import blobs, unit_rows

ROOT = Path(__file__).parents[3]


class FakeFaiss:
    """faiss with GPUs: what is put on one stays on the CPU, and is noted."""

    def __init__(self, gpus: int) -> None:
        self.gpus, self.put_on = gpus, list[int]()

    def get_num_gpus(self) -> int:
        return self.gpus

    def StandardGpuResources(self) -> object:
        return object()

    def index_cpu_to_gpu(self, _resources: object, number: int, index: object) -> object:
        self.put_on.append(number)
        return index

    def __getattr__(self, name: str) -> object:
        assert "all_gpus" not in name
        return getattr(faiss, name)


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], FakeFaiss]]:
    def made(gpus: int) -> FakeFaiss:
        fake = FakeFaiss(gpus)
        monkeypatch.setitem(sys.modules, "faiss", fake)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        return fake

    yield made
    monkeypatch.undo()


def kmeans(device: str) -> Fit:
    rows_NQ, _ = blobs(k=5, noise=0.1)
    return KMeans(k=5, iterations=3).fit(InMemory(rows_NQ), seed=0, device=device)


def spherical(device: str) -> Fit:
    rows_NQ, _ = blobs(k=5, noise=0.1)
    return KMeans(k=5, iterations=3, spherical=True).fit(InMemory(rows_NQ), seed=0, device=device)


def pic(device: str) -> Fit:
    rows_NQ, _ = blobs(k=5, noise=0.1)
    return Pic(PicConfig()).fit(InMemory(rows_NQ), device=device)


@pytest.mark.parametrize("cluster", [kmeans, spherical, pic])
@pytest.mark.parametrize(("device", "number"), [("cuda:1", 1), ("cuda:3", 3), ("cuda", 2)])
def test_fit__uses_the_one_gpu_that_was_asked_for(
    device: str, number: int, cluster: Callable[[str], Fit], with_gpus: Callable[[int], FakeFaiss]
) -> None:
    fake = with_gpus(4)
    cluster(device)
    assert set(fake.put_on) == {number}


@pytest.mark.parametrize("gpus", [0, 1])
def test_library_for__is_torch_where_faiss_has_no_such_gpu(
    gpus: int, with_gpus: Callable[[int], FakeFaiss]
) -> None:
    with_gpus(gpus)

    assert faiss_index.library_for("cuda:1") == "torch"
    reason = faiss_index.reason_for_torch("cuda:1")
    assert reason is not None
    assert f"GPUs that it finds: {gpus}; that torch finds: 4" in reason


def test_library_for__is_faiss_on_a_cpu_and_on_its_gpus(
    with_gpus: Callable[[int], FakeFaiss],
) -> None:
    with_gpus(2)

    for device in ("cpu", "cuda:1"):
        assert faiss_index.library_for(device) == "faiss"
        assert faiss_index.reason_for_torch(device) is None
    assert faiss_index.library_for("cuda") == "torch", "the current device is the third"


def test_library_for__needs_no_faiss_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)

    assert faiss_index.library_for("cuda:0") == "torch"
    assert "cannot be imported" in str(faiss_index.reason_for_torch("cuda:0"))
    with pytest.raises(ConfigError, match="need the package faiss"):
        faiss_index.library_for("cpu")


def test_assign__on_one_gpu(with_gpus: Callable[[int], FakeFaiss]) -> None:
    fake = with_gpus(4)
    rows_NQ = unit_rows(50)
    assign(InMemory(rows_NQ), rows_NQ[:5], device="cuda:1")
    assert fake.put_on == [1]
    assert faiss_index.reason_for_torch("cuda:1") is None


def test_assigner__builds_its_index_once(monkeypatch: pytest.MonkeyPatch) -> None:
    raw_ND = np.random.default_rng(0).standard_normal((9000, 8), np.float32)
    pca = fit_pca([torch.from_numpy(raw_ND)], dim=4)
    built: list[object] = []

    def counting(*given: Any, **named: Any) -> Nearest:  # noqa: ANN401
        built.append(given)
        return Nearest(*given, **named)

    monkeypatch.setattr(assigning, "Nearest", counting)
    assigner = Assigner(pca, (unit_rows(5, 4),))

    found = list(assigner.assign([([str(n) for n in range(9000)], raw_ND)]))

    assert len(found) == 3
    assert len(built) == 1


def test_pca_to__moves_all_tensors() -> None:
    pca = fit_pca([torch.randn(20, 8)], dim=3)
    moved = pca.to("meta")
    assert {t.device.type for t in (moved.mean_D, moved.components_QD, moved.eigenvalues_Q)} == {
        "meta"
    }
    assert pca.mean_D.device.type == "cpu"


@pytest.mark.parametrize("cluster", [kmeans, pic])
def test_fit__without_faiss_says_what_to_install(
    cluster: Callable[[str], Fit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # Python's way to say that there is none

    with pytest.raises(ConfigError, match=r"need the package faiss[\s\S]*Fix: +pip install"):
        cluster("cpu")


def test_faiss__is_imported_only_where_it_is_needed() -> None:
    """A machine without it can do everything else, the commands that only read first of all."""
    sources = [
        path
        for part in ("flows", "stages", "deepcluster_core")
        for path in (ROOT / part).rglob("*.py")
    ]
    importing = {
        str(path.relative_to(ROOT))
        for path in sources
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "faiss" in ast.unparse(node).split()
    }
    assert importing == set()
