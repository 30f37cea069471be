"""One small epoch, stage by stage, that the tests of the stages read from."""

from pathlib import Path

import pytest

from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from stages.cluster import ClusterConfig, cluster
from stages.extract import ExtractConfig, extract
from stages.index import DatasetConfig, index
from stages.train import TrainConfig, train
from tests.margins import SEED
from tests.support.recipes import PLAIN, write

EPOCH_0 = Context(seed=SEED, epoch=0)


@pytest.fixture(scope="session")
def network() -> NetworkConfig:
    """Return the smallest network; dropout and Sobel as in the paper."""
    return NetworkConfig(name="smallnet", image_size=16)


@pytest.fixture(scope="session")
def dataset(tiny_images: Path) -> DatasetConfig:
    """Return 240 grey pictures of 20 to 25 pixels a side, in 4 classes."""
    return DatasetConfig(source=tiny_images, shorter_side=20, channels=1, encoding="raw")


@pytest.fixture(scope="session")
def images(dataset: DatasetConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an images artifact. Shared, as all artifacts here: a test must not change it."""
    out = tmp_path_factory.mktemp("run") / "images"
    source = dataset.open_source().fingerprint()
    index.run(dataset=dataset, source=source, out=out, context=Context(seed=SEED))
    return out


@pytest.fixture(scope="session")
def images_of_any_size(dataset: DatasetConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an images artifact whose images keep their own sizes."""
    out = tmp_path_factory.mktemp("any-size") / "images"
    kept = dataset.model_copy(update={"shorter_side": None})
    source = kept.open_source().fingerprint()
    index.run(dataset=kept, source=source, out=out, context=Context(seed=SEED))
    return out


@pytest.fixture(scope="session")
def features(images: Path, network: NetworkConfig) -> Path:
    """Return the features of the network as initialised."""
    out = images.parent / "features" / "epoch=0000"
    extract.run(
        extract=ExtractConfig(resize=20, precision="float32"),
        network=network,
        images=images,
        checkpoint=None,
        out=out,
        context=EPOCH_0,
    )
    return out


@pytest.fixture(scope="session")
def labels(images: Path, features: Path) -> Path:
    """Return labels of 8 clusters."""
    out = images.parent / "labels" / "epoch=0000"
    config = ClusterConfig(k=8, pca_dim=16)
    cluster.run(cluster=config, images=images, features=features, out=out, context=EPOCH_0)
    return out


@pytest.fixture(scope="session")
def checkpoint(images: Path, labels: Path, network: NetworkConfig) -> Path:
    """Return the network after one epoch of 8 steps."""
    out = images.parent / "checkpoints" / "epoch=0000"
    train.run(
        train=TrainConfig(batch_size=32),
        network=network,
        images=images,
        labels=labels,
        checkpoint=None,
        out=out,
        context=EPOCH_0,
    )
    return out


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a small recipe that is right."""
    return write(tmp_path / "recipe.yaml", PLAIN)
