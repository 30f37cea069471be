"""Trouble in learning, in small real runs: what diverges is stopped, what collapses is told."""

from pathlib import Path

import pandas as pd
import pytest

from deepcluster_core.errors import TrainingError
from flows.stage_rerun import rerun
from tests.flows.conftest import call, contents, loop, manifests

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

    with pytest.raises(TrainingError, match=r"(?s)not finite.*Cause:.*Fix:   lower train.lr"):
        loop(recipe, run, overrides=DIVERGES)

    assert set(manifests(run)) == {"images", "features/epoch=0000", "labels/epoch=0000"}


def test_train__a_later_epoch_that_diverges_keeps_the_checkpoints_before(
    own_run: Path, tmp_path: Path
) -> None:
    before = contents(own_run / "checkpoints")

    with pytest.raises(TrainingError, match="checkpoint of the epoch before is kept"):
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


def test_loop__collapsed_features_give_a_warning(finished_run: Path) -> None:
    """Eight steps an epoch on 240 noisy shapes are too few: see `Pace`."""
    metrics = pd.read_parquet(finished_run / "metrics")

    assert (metrics.effective_rank[1:] < 2).all()
    assert metrics.warnings.tolist() == ["", "loss_at_chance, low_rank", "loss_at_chance, low_rank"]
