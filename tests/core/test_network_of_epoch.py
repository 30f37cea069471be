"""The network that a run begins with. Suffixes: N images, S pixels of a side, D values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.models.build import build_network
from deepcluster_core.models.calibration import measured_statistics
from deepcluster_core.models.config import NetworkConfig, ProjectionConfig
from deepcluster_core.models.network import Network
from deepcluster_core.network_of_epoch import network_of_epoch
from stages.index import DatasetConfig, index

PLAIN = NetworkConfig(
    name="resnet18-small",
    image_size=16,
    sobel=False,
    projection=ProjectionConfig(hidden=16, dim=8),
)
CALIBRATED = PLAIN.model_copy(update={"calibrate": True})
CONTEXT = Context(seed=31, epoch=0)


@pytest.fixture(scope="module")
def pictures(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    dataset = DatasetConfig(source=tiny_images, shorter_side=20, channels=1, encoding="raw")
    out = tmp_path_factory.mktemp("calibration") / "images"
    source = dataset.open_source().fingerprint()
    index.run(dataset=dataset, source=source, out=out, context=Context(seed=31))
    return Images(out)


def views(count: int, seed: int) -> NDArray[np.uint8]:
    """Return photograph-like views, which share a slope of brightness, with noise."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 80, (count, 16, 16, 1), dtype=np.uint8)
    slope = np.linspace(0, 150, 16).astype(np.uint8)
    return noise + slope[:, None, None]


def mean_cosine(feature_ND: Tensor) -> float:
    """Return the mean cosine of two different rows."""
    unit_ND = torch.nn.functional.normalize(feature_ND, dim=1)
    num = len(unit_ND)
    return float((unit_ND @ unit_ND.T).sum() - num) / (num * (num - 1))


def test_measured_statistics__are_the_averages_over_batches() -> None:
    network = build_network(PLAIN, channels=1, seed=4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    batches = [views(12, 0), views(12, 1), views(12, 2)]

    statistics = measured_statistics(network, batches, device="cpu")

    # The first normalisation reads the output of a convolution, which no statistics change.
    means: list[Tensor] = []
    with torch.no_grad():
        for views_NSSC in batches:
            images_NCSS = torch.from_numpy(views_NSSC).permute(0, 3, 1, 2)
            maps = network.layer_output(images_NCSS, "conv1")
            means.append(maps.mean(dim=(0, 2, 3)))
    expected = torch.stack(means).mean(dim=0)
    torch.testing.assert_close(
        statistics["backbone.bn1.running_mean"], expected, rtol=1e-4, atol=1e-5
    )
    assert {name for name in statistics if name.startswith("projection.")} == {
        f"projection.1.{buffer}"
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert network.training
    for name, tensor in network.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(tensor, before[name]), name


def test_measured_statistics__network_without_normalisation() -> None:
    config = NetworkConfig(name="torchvision:alexnet", image_size=64, sobel=False)
    network = build_network(config, channels=1, seed=4)

    assert measured_statistics(network, [], device="cpu") == {}


def test_network_of_epoch__without_calibration_is_that_of_the_seed(pictures: Images) -> None:
    network = network_of_epoch(PLAIN, pictures, checkpoint=None, context=CONTEXT)
    expected = restore_network(PLAIN, channels=1, seed=31, checkpoint=None).state_dict()

    assert all(torch.equal(t, expected[name]) for name, t in network.state_dict().items())


def calibrated(pictures: Images, *, seed: int = 31, workers: int = 2) -> Network:
    context = Context(seed=seed, epoch=0, workers=workers)
    return network_of_epoch(CALIBRATED, pictures, checkpoint=None, context=context)


def test_network_of_epoch__is_the_same_for_all_stages(pictures: Images) -> None:
    one, again = calibrated(pictures).state_dict(), calibrated(pictures, workers=1).state_dict()
    random = restore_network(PLAIN, channels=1, seed=31, checkpoint=None).state_dict()

    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    for name, tensor in one.items():
        is_statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(tensor, random[name]) != is_statistic, name


def test_network_of_epoch__calibration_makes_features_less_parallel(pictures: Images) -> None:
    plain = network_of_epoch(PLAIN, pictures, checkpoint=None, context=CONTEXT).eval()
    ready = calibrated(pictures).eval()
    images_NCSS = torch.from_numpy(views(24, 3)).permute(0, 3, 1, 2)
    with torch.no_grad():
        before = mean_cosine(plain.feature(images_NCSS))
        after = mean_cosine(ready.feature(images_NCSS))

    # In parts of what is missing to parallel: 0.005 and 0.05 were measured.
    assert 1 - after > 3 * (1 - before)


def test_network_of_epoch__of_a_checkpoint_is_not_calibrated(
    pictures: Images, tmp_path: Path
) -> None:
    from deepcluster_core.artifacts.checkpoints import write_checkpoint  # noqa: PLC0415
    from deepcluster_core.artifacts.commit import new_artifact  # noqa: PLC0415
    from deepcluster_core.artifacts.file_names import MODEL, MOMENTUM  # noqa: PLC0415
    from deepcluster_core.artifacts.manifest import Stage  # noqa: PLC0415

    trained = build_network(PLAIN, channels=1, seed=8)
    stage = Stage("train", 1, "checkpoints", (MODEL, MOMENTUM))
    with new_artifact(stage, tmp_path / "c", config={}, inputs={}, context=CONTEXT) as draft:
        write_checkpoint(draft.folder, backbone=trained, momentum={})

    network = network_of_epoch(CALIBRATED, pictures, checkpoint=tmp_path / "c", context=CONTEXT)

    expected = trained.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in network.state_dict().items())
