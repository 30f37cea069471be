"""Runs that begin with given weights or a projection."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import zarr
from safetensors.torch import load_file, save_file

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.errors import ConfigError, DeepClusterError
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from flows.show.run import show_run
from stages.runs.export import export
from stages.runs.folder import RunFolder
from stages.runs.new_images import assign, embed
from tests.support.flow_runs import loop, tasks
from tests.support.plain_runs import make_run

OVERRIDES: dict[str, Any] = {
    "network": {"projection": {"hidden": 16, "dim": 8}},
    "extract": {"layer": "projection", "precision": "float32"},
    "cluster": {"pca_dim": 4},
}


@pytest.fixture(scope="module")
def projected_run(
    recipe: Path, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a run of an epoch that clusters embeddings."""
    run = tmp_path_factory.mktemp("projected") / "run"
    assert set(loop(recipe, run, epochs=1, overrides=OVERRIDES).values()) == {"Completed"}
    return run


def test_deepcluster__clusters_the_embeddings(projected_run: Path) -> None:
    features = read_manifest(projected_run / "features/epoch=0000")
    model = load_file(projected_run / "checkpoints/epoch=0000/model.safetensors")

    assert features.facts["dim"] == 8
    assert model["projection.3.weight"].shape == (8, 16)
    momentum = load_file(projected_run / "checkpoints/epoch=0000/momentum.safetensors")
    assert "projection.3.weight" in momentum


def test_assign__of_the_first_epoch_uses_the_network_as_it_begins(
    projected_run: Path, tiny_images: Path
) -> None:
    assign(str(projected_run), tiny_images, out=Path("labels.parquet"), epoch=0)

    own = pd.read_parquet(projected_run / "labels/epoch=0000/labels.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet("labels.parquet"), own, check_exact=True)


@pytest.mark.parametrize(("layer", "dim"), [(None, 256), ("projection", 8), ("conv3", 128)])
def test_embed__leaves_the_projection_out_unless_it_is_named(
    layer: str | None, dim: int, projected_run: Path, tiny_images: Path
) -> None:
    embed(str(projected_run), tiny_images, out=Path("features.zarr"), layer=layer)

    array = zarr.open_array("features.zarr", mode="r")
    assert array.shape == (240, dim)


@pytest.mark.parametrize(("layer", "dim"), [(None, 256), ("projection", 8)])
def test_export__leaves_the_projection_out_unless_it_is_named(
    layer: str | None, dim: int, projected_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path("network.safetensors")
    export(str(projected_run), format="safetensors", out=out, layer=layer)

    assert f"to features (N, {dim})" in " ".join(capsys.readouterr().out.split())
    assert any("projection" in name for name in load_file(out)) == (layer is not None)


def write_weights(path: Path, *, seed: int) -> Path:
    network = build_network(NetworkConfig(name="smallnet", image_size=16), channels=1, seed=seed)
    save_file(network.state_dict(), path)
    return path


def with_weights(path: Path) -> dict[str, Any]:
    return {"network": {"weights": str(path)}}


@pytest.mark.slow
def test_deepcluster__depends_on_the_contents_of_the_weights(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    run = tmp_path / "run"
    first, copied = tmp_path / "first.safetensors", tmp_path / "copied.safetensors"
    write_weights(first, seed=99)
    write_weights(copied, seed=99)

    states = loop(recipe, run, epochs=1, overrides=with_weights(first))
    assert set(states.values()) == {"Completed"}
    again = loop(recipe, run, epochs=1, overrides=with_weights(copied))
    assert set(again.values()) == {"Cached"}

    before = read_manifest(run / "features/epoch=0000").digest
    write_weights(copied, seed=98)
    with pytest.raises(ConfigError, match=r"Changed: the contents of network\.weights \(.*copied"):
        make_run(recipe, run, epochs=1, overrides=with_weights(copied))
    assert read_manifest(run / "features/epoch=0000").digest == before
    states = loop(recipe, run, epochs=1, overrides=with_weights(copied), update=True)
    assert {name for name, state in states.items() if state == "Completed"} >= tasks(0)
    assert read_manifest(run / "features/epoch=0000").digest != before


def test_deepcluster__says_that_the_weights_are_gone(
    recipe: Path, tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, path = tmp_path / "run", tmp_path / "weights.safetensors"
    write_weights(path, seed=99)
    make_run(recipe, run, epochs=1, overrides=with_weights(path))
    path.unlink()

    with pytest.raises(DeepClusterError, match=r"network\.weights: .* cannot be read"):
        make_run(recipe, run, epochs=2, overrides=with_weights(path))
    # Commands that only look at the run need no weights.
    show_run(RunFolder(run), None)
    assert "smallnet, k = 8, seed 31" in capsys.readouterr().out
