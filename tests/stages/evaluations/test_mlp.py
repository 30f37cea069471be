"""A multilayer perceptron on the last layer."""

from pathlib import Path

import pandas as pd
import pytest

from deepcluster_core.context import Context
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations.mlp import EVALUATION, MlpConfig
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import RESULTS
from tests.margins import SEED, above

FAST = {
    "epochs": 12,
    "batch_size": 32,
    "folds": 2,
    "weight_decays": [0.0001, 0.01],
    "random_crop": False,
    "flip": 0.0,
}


def protocol(**changes: object) -> MlpConfig:
    return load_protocol(PROTOCOLS / "mlp.yaml", MlpConfig, FAST | changes)


def evaluated(network: NetworkConfig, images: Path, checkpoint: Path, out: Path) -> pd.DataFrame:
    EVALUATION.run(
        network=network,
        protocol=protocol(),
        images=images,
        validation=None,
        checkpoint=checkpoint,
        supervised=None,
        out=out,
        context=Context(seed=SEED, epoch=0),
    )
    return pd.read_parquet(out / RESULTS)


@pytest.mark.learns
def test_run__has_a_row_for_each_network_and_writes_the_same_bytes_again(
    network: NetworkConfig, images: Path, checkpoint: Path, tmp_path: Path
) -> None:
    rows = evaluated(network, images, checkpoint, tmp_path / "mlp")
    evaluated(network, images, checkpoint, tmp_path / "again")

    assert rows.network.tolist() == ["random", "epoch 0"]
    assert "layer" not in rows
    assert rows.numbers.tolist() == [1024, 1024], "conv4: 2 x 2 x 256"
    assert (rows.top1_best >= rows.top1_last).all()
    assert above("perceptron: top-1", rows.top1_best[0], 40), "chance is 25"
    written = [(tmp_path / name / RESULTS).read_bytes() for name in ("mlp", "again")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("name", "layer", "hidden"),
    [
        ("alexnet", "conv5", (4096, 4096)),
        ("smallnet", "conv4", (256, 256)),
        ("torchvision:resnet18", "last_relu", (512, 512)),
    ],
)
def test_shape_of__auto_is_what_follows_the_last_convolution(
    name: str, layer: str, hidden: tuple[int, ...]
) -> None:
    size = 224 if name == "alexnet" else 32
    network = build_network(NetworkConfig(name=name, image_size=size), channels=1, seed=0)
    shape = protocol().shape_of(network)
    assert (shape.layers, shape.hidden) == ((layer,), hidden)
    own = protocol(layer="conv2", hidden=[7]).shape_of(network)
    assert (own.layers, own.hidden) == (("conv2",), (7,))
