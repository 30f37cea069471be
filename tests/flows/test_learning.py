"""Trouble in learning, in small real runs: divergence stops a run, collapse gives a warning."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from deepcluster_core.errors import TrainingError
from deepcluster_core.health import names, signs
from flows.stage_rerun import rerun
from tests.support.flow_runs import call, loop
from tests.support.recipes import write_recipe
from tests.support.run_files import contents, manifests

DIGITS = Path(__file__).parents[2] / "configs/data/mnist-test.parquet"
HEALTHY = f"""
epochs: 2
dataset: {{source: {DIGITS}, subset: 600, shorter_side: 32, channels: 1, encoding: raw}}
network: {{name: smallnet, image_size: 32}}
extract: {{resize: 32}}
cluster: {{k: 10, pca_dim: 32}}
train: {{batch_size: 64, reassign_every: 10, crop_area: [0.5, 1.0], flip: 0}}
"""
DIVERGES = {"train": {"lr": 1e6}}


def test_loop__loss_that_is_not_finite_stops_it(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    run = tmp_path / "run"

    with pytest.raises(TrainingError, match=r"(?s)no longer finite.*Cause:.*Fix:   lower train.lr"):
        loop(recipe, run, overrides=DIVERGES)

    assert set(manifests(run)) == {"images", "features/epoch=0000", "labels/epoch=0000"}


def test_train__a_later_epoch_that_diverges_keeps_the_checkpoints_before(
    own_run: Path, tmp_path: Path
) -> None:
    before = contents(own_run / "checkpoints")

    with pytest.raises(TrainingError, match="checkpoint of the previous epoch is kept"):
        call(
            rerun,
            stage="train",
            run=str(own_run),
            epoch=2,
            overrides=DIVERGES,
            out=str(tmp_path / "out"),
        )

    assert contents(own_run / "checkpoints") == before
    assert manifests(tmp_path / "out") == {}


@pytest.mark.slow
def test_loop__a_healthy_run_gives_no_warning(tmp_path: Path, prefect_server: str) -> None:
    (tmp_path / "digits.yaml").write_text(HEALTHY)

    loop(tmp_path / "digits.yaml", tmp_path / "run")

    metrics = pd.read_parquet(tmp_path / "run/metrics")
    assert metrics.warnings.tolist() == ["", ""], metrics.effective_rank.tolist()


def test_loop__warnings_of_each_epoch_are_those_of_its_numbers(finished_run: Path) -> None:
    """Whether so few steps on 240 noisy shapes collapse the features depends on the processor."""
    metrics = pd.read_parquet(finished_run / "metrics").astype(object)
    rows = metrics.where(metrics.notna(), None).to_dict("records")

    assert [row["warnings"] for row in rows] == [names(signs(row)) for row in rows]


def test_loop__collapsed_features_give_a_warning(
    tmp_path: Path, prefect_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pictures of one grey each differ in one number, and so do their features."""
    source, run = tmp_path / "greys", tmp_path / "run"
    source.mkdir()
    for grey in range(64):
        Image.new("L", (16, 16), 4 * grey).save(source / f"{grey:02d}.png")
    recipe = write_recipe(tmp_path / "greys.yaml", source)
    plain = {"network": {"sobel": False}, "cluster": {"pca_dim": "auto"}}

    loop(recipe, run, epochs=1, overrides=plain)

    metrics = pd.read_parquet(run / "metrics").iloc[0]
    assert metrics.effective_rank < 2, "one direction, and the little by which it is bent: 1.1"
    assert "low_rank" in metrics.warnings.split(", ")
    assert "the features have collapsed onto" in caplog.text
