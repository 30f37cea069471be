"""Each rank computes on its own GPU: shown with GPUs that hold no numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepcluster_core.artifacts.images import Images
from deepcluster_core.clustering.pca import fit_pca
from deepcluster_core.context import Context
from deepcluster_core.device_feed import crops
from deepcluster_core.device_feed.central import fed_central_views
from deepcluster_core.evaluation.probes.pooling import Frozen
from deepcluster_core.features import extract_features
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.training.batches import Batch
from deepcluster_core.training.epoch import PseudoLabelLearner
from deepcluster_core.training.heads import Fresh
from deepcluster_core.training.learner import Sgd
from tests.core.artifacts.test_images import pack, pictures
from tests.support.fake_cuda import fake_gpus

CONFIG = NetworkConfig(name="smallnet", image_size=16)
VIEWS_BSSC = np.zeros((4, 16, 16, 1), np.uint8)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_extract_features__on_the_device_of_the_rank(device: str) -> None:
    network = build_network(CONFIG, channels=1, seed=0)

    with fake_gpus() as seen:
        found = list(
            extract_features(network, [VIEWS_BSSC], layer=None, device=device, precision="float32")
        )

    assert [len(feature_BD) for feature_BD in found] == [4]
    assert seen == {"cpu", device}


def test_extract_features__are_projected_before_they_leave_the_gpu() -> None:
    network = build_network(CONFIG, channels=1, seed=0)
    rows_ND = torch.randn(50, network.feature_dim, generator=torch.Generator().manual_seed(0))
    pca = fit_pca([rows_ND], dim=5)

    with fake_gpus() as seen:
        found = list(
            extract_features(
                network,
                [VIEWS_BSSC] * 3,
                layer=None,
                device="cuda:1",
                precision="bfloat16",
                dtype="float16",
                project=pca.to("cuda:1").components_of,
            )
        )

    assert [(feature_BD.shape, feature_BD.dtype) for feature_BD in found] == [
        ((4, 5), np.dtype(np.float16))
    ] * 3
    assert seen == {"cpu", "cuda:1"}
    assert seen.num_waits == 0, "a batch waited for the GPU"


@pytest.mark.parametrize("sobel", [True, False])
def test_fed_central_views__are_made_on_the_device_of_the_rank(
    sobel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fake GPU runs no kernel of Triton.
    monkeypatch.setattr(crops, "has_triton", lambda _device: False)
    stored = Images(pack(tmp_path / "images", pictures(20), "raw"))
    config = NetworkConfig(name="smallnet", image_size=16, sobel=sobel)
    network = build_network(config, channels=3, seed=0)
    context = Context(seed=0, device="cuda:1")

    with fake_gpus() as seen:
        views = fed_central_views(
            stored, config, resize=20, batch_size=8, batches=[0, 1, 2], context=context
        )
        found = list(
            extract_features(
                network,
                views,
                layer=None,
                device="cuda:1",
                precision="float32",
                dtype="float16",
            )
        )

    assert [len(feature_BD) for feature_BD in found] == [8, 8, 4]
    assert found[0].dtype == np.float16
    assert seen == {"cpu", "cuda:1"}
    assert seen.num_waits == 0, "a batch waited for the GPU"


def test_frozen__on_the_device_of_the_rank() -> None:
    network = build_network(CONFIG, channels=1, seed=0)

    with fake_gpus() as seen:
        frozen = Frozen(network, ["conv2"], size=16, device="cuda:1", precision="float32")
        values = frozen(VIEWS_BSSC)

    assert str(values["conv2"].device) == "cuda:1"
    assert seen == {"cpu", "cuda:1"}


def test_loss__on_the_device_of_the_rank() -> None:
    network = build_network(CONFIG, channels=1, seed=0)
    batch = Batch((VIEWS_BSSC,), (1,), np.zeros((1, 4), np.int64), None, np.arange(4))

    with fake_gpus() as seen:
        learner = PseudoLabelLearner(
            network,
            head=Fresh.drawn(network.output_dim, 8, seed=0),
            sgd=Sgd(0.1, 0.9, 0),
            device="cuda:1",
            dropout_seed=0,
        )
        loss = learner.loss(batch, "float32")

    assert str(loss.device) == "cuda:1"
    assert seen == {"cpu", "cuda:1"}


def test_fake_gpus__catch_a_tensor_on_another_device() -> None:
    with fake_gpus():
        on_device = torch.zeros(3, device="cuda:1")
        with pytest.raises(RuntimeError, match="same device"):
            _ = on_device + torch.zeros(3)


def test_fake_gpus__count_what_makes_the_program_wait() -> None:
    with fake_gpus() as seen:
        on_device = torch.zeros(3, device="cuda:1")
        assert float(on_device.sum()) == 0
        assert float(torch.zeros(3).sum()) == 0

    assert seen.num_waits == 1, "a value on the CPU is there already"
