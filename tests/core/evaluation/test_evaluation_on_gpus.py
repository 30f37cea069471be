"""Evaluations compute on their device, shown with GPUs that hold no numbers.

Suffixes: N, B images, D dimensions, C classes, P probes, R regions.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcluster_core.clustering.pca import Pca
from deepcluster_core.evaluation import knn
from deepcluster_core.evaluation.probes.classifiers import Probes, ProbeSgd
from deepcluster_core.evaluation.retrieval.rmac import RegionReader, descriptor
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from tests.support.fake_cuda import fake_gpus

ON_GPU = {"cpu", "cuda:1"}


def test_knn_nearest__on_the_device_of_the_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_from_keys", lambda key_MK: (key_MK, key_MK))

    with fake_gpus() as seen:
        queries_MD = torch.zeros(20, 8, device="cuda:1")
        batches = [torch.zeros(size, 8, device="cuda:1") for size in (30, 50)]
        found = knn.nearest(queries_MD, batches, k=5, block_rows=16)

    assert seen == ON_GPU
    assert found.row_MK.shape == (20, 5)


def test_knn_nearest__catches_rows_on_another_device() -> None:
    with fake_gpus(), pytest.raises(RuntimeError, match="device"):
        knn.nearest(torch.zeros(20, 8, device="cuda:1"), [torch.zeros(30, 8)], k=5)


@pytest.mark.parametrize("sizes", [(8, 3), (8, 6, 3)])
def test_probes__learn_on_their_device(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tensors without numbers cannot compute a backward pass.
    def gradients(_total: Tensor, weights: list[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(weight) for weight in weights]

    monkeypatch.setattr(torch.autograd, "grad", gradients)
    with fake_gpus() as seen:
        probes = Probes(
            sizes,
            decays=[0.0, 1e-4],
            sgd=ProbeSgd(lr=0.1, momentum=0.9),
            dropout=0.0,
            seed=0,
            device="cuda:1",
            precision="float32",
        )
        values_BD = torch.zeros(4, 8, device="cuda:1")
        class_B = torch.zeros(4, dtype=torch.int64, device="cuda:1")
        counts_PB = torch.ones(2, 4, dtype=torch.bool, device="cuda:1")
        probes.learn(values_BD, class_B, counts_PB)
        found = probes.probabilities(values_BD, [0])

    assert seen == ON_GPU
    assert found.shape == (1, 4, 3)


def test_region_reader__on_its_device() -> None:
    network = build_network(NetworkConfig(name="smallnet", image_size=32), channels=3, seed=0)
    image_HWC = np.zeros((40, 50, 3), np.uint8)

    with fake_gpus() as seen:
        reader = RegionReader(
            network, layer="conv2", levels=2, overlap=0.4, device="cuda:1", precision="float32"
        )
        regions_RD = reader.read(image_HWC)
        found = descriptor(regions_RD, Pca.identity(regions_RD.shape[1]))

    assert seen == ON_GPU
    assert str(found.device) == "cuda:1"
