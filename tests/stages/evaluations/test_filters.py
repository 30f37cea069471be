"""Network in, its first filters out. Suffixes: F filters, C channels, H rows, W columns."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from deepcluster_core.artifacts.file_names import MODEL
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations.filters import EVALUATION, PICTURE, PICTURE_RANDOM, FiltersConfig
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import read_results

CONTEXT = Context(seed=31, epoch=0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "filters"


def evaluate(
    network: NetworkConfig, images: Path, checkpoint: Path | None, out: Path, scale: str = "each"
) -> pd.DataFrame:
    protocol = load_protocol(PROTOCOLS / "filters.yaml", FiltersConfig, {"scale": scale})
    EVALUATION.run(
        network=network,
        protocol=protocol,
        images=images,
        checkpoint=checkpoint,
        out=out,
        context=CONTEXT,
    )
    return pd.DataFrame(read_results(out))


def test_run__a_row_for_each_filter_of_the_checkpoint(
    network: NetworkConfig, images: Path, checkpoint: Path, out: Path
) -> None:
    weight_FCHW = load_file(checkpoint / MODEL)["backbone.maps.conv1.conv.weight"]

    table = evaluate(network, images, checkpoint, out)

    assert table["filter"].tolist() == list(range(32))
    np.testing.assert_allclose(table["norm"], np.linalg.norm(weight_FCHW.reshape(32, -1), axis=1))
    np.testing.assert_allclose(table["mean"], weight_FCHW.mean((1, 2, 3)), rtol=1e-5)
    assert table["high_frequency"].between(0, 1).all()
    assert not np.isclose(table["norm"], table["random_norm"], rtol=1e-6).any()
    assert table["random_cosine"].between(0.5, 0.999999).all(), "8 steps turn them a little"


def test_run__the_network_as_initialised_is_equal_to_the_random_one(
    network: NetworkConfig, images: Path, out: Path
) -> None:
    table = evaluate(network, images, None, out)

    assert table["norm"].tolist() == table["random_norm"].tolist()
    assert table["random_cosine"].to_numpy() == pytest.approx(1)
    assert (out / PICTURE).read_bytes() == (out / PICTURE_RANDOM).read_bytes()


def test_run__pictures_differ_by_network_and_scale(
    network: NetworkConfig, images: Path, checkpoint: Path, out: Path
) -> None:
    def pictures(scale: str) -> set[bytes]:
        evaluate(network, images, checkpoint, out, scale)
        return {(out / name).read_bytes() for name in (PICTURE, PICTURE_RANDOM)}

    assert len(pictures("each") | pictures("all")) == 4


def test_run__same_inputs_same_bytes(
    network: NetworkConfig, images: Path, checkpoint: Path, out: Path
) -> None:
    def digest() -> str:
        evaluate(network, images, checkpoint, out)
        assert inspect(out)[0] is Condition.WHOLE
        return read_manifest(out).digest

    assert digest() == digest()
    assert set(EVALUATION.stage.identity.files) == set(read_manifest(out).files)
