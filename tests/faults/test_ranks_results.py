"""What ranks make does not depend on how many there are, nor on how often they were killed.

Suffixes: N images, H height, W width.
"""

import os
import signal
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deepcluster_core.artifacts.file_names import FEATURES, MODEL
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_labels
from deepcluster_core.clustering.nearest import UNIT_ROWS
from deepcluster_core.metrics import nmi
from tests.support.ranked_run import RankedRun, when
from tests.support.recipes import write_recipe

pytestmark = pytest.mark.slow  # whole runs, whose stages start several processes each

NUM_IMAGES = 4 * UNIT_ROWS + 1000
"""Five units of rows, the last of which is small, so that four ranks have unequal shares."""
SECTIONS = {
    "epochs": "1",
    "dataset": "{source: SOURCE, shorter_side: 16, channels: 1, encoding: raw}",
    "network": "{name: smallnet, image_size: 16}",
    "cluster": "{k: 40, pca_dim: 32, iterations: 5}",
    "train": "{batch_size: 64, reassign_every: 0.1, lr: 0.01}",
    "keep": "{features: null}",
}


def write_images(path: Path, num_images: int) -> Path:
    """Write a Parquet file of small images: noisy stripes of different directions and widths."""
    generator = np.random.default_rng(0)
    y_HW, x_HW = np.mgrid[0:16, 0:16]
    files: list[dict[str, Any]] = []
    for _ in range(num_images):
        angle, width = generator.uniform(0, np.pi), generator.uniform(0.4, 1.5)
        wave_HW = np.sin((x_HW * np.cos(angle) + y_HW * np.sin(angle)) * width)
        pixels_HW = 127 + 70 * wave_HW + generator.normal(0, 15, (16, 16))
        file = BytesIO()
        Image.fromarray(np.clip(pixels_HW, 0, 255).astype(np.uint8)).save(file, "PNG")
        files.append({"bytes": file.getvalue(), "path": None})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(files, kind)}), path)
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    source = write_images(folder / "stripes.parquet", NUM_IMAGES)
    return write_recipe(folder / "stripes.yaml", source, **SECTIONS)


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> RankedRun:
    """Return a finished run of one rank. Shared: a test must not change it."""
    run = RankedRun(recipe, tmp_path_factory.mktemp("alone") / "run")
    run.finish(1)
    return run


def same_clusters(run: RankedRun, expected: RankedRun) -> None:
    """Check that the features and labels of epoch 0 have equal bytes, PCA and centroids too."""
    for kind in ("features", "labels"):
        assert run.files(kind) == expected.files(kind)
    assert len(run.files("features")) > 4 + 1, "several shards for each rank"
    assert len(run.files("labels")) == 2, "the table; the PCA and the centroids"


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_run__any_number_of_ranks_makes_the_same_clusters(
    recipe: Path, alone: RankedRun, tmp_path: Path, ranks: int
) -> None:
    run = RankedRun(recipe, tmp_path / "run")

    run.finish(ranks)

    same_clusters(run, alone)
    assert read_manifest(run.artifact("labels")).ranks == ranks, "ranks have made it"
    assert run.all_ended()
    assert list(run.scratch.iterdir()) == []


@pytest.mark.parametrize("ranks", [2, 3])
def test_run__the_same_ranks_train_to_the_same_bytes(
    ranked: RankedRun, tmp_path: Path, ranks: int
) -> None:
    """Two epochs, in the second of which the momentum of the first one is used."""
    again = RankedRun(ranked.recipe, tmp_path / "again")
    for run in (ranked, again):
        run.finish(ranks, epochs=2)

    for epoch in (0, 1):
        for kind in ("features", "labels", "checkpoints"):
            assert ranked.files(kind, epoch) == again.files(kind, epoch), (kind, epoch)


@pytest.mark.parametrize("kind", ["features", "labels", "checkpoints"])
def test_run__killed_with_four_ranks_goes_on_with_two(
    recipe: Path, alone: RankedRun, tmp_path: Path, kind: str
) -> None:
    """Features and labels to the byte; training in 52 steps within rounding that is not amplified.

    The learning rate is 0.01: at 0.05, the small network from its random start amplifies any
    rounding, also that of another number of threads, to 0.1 within 50 steps.
    """
    run = RankedRun(recipe, tmp_path / "run")
    often = {"compute": {"save_every_steps": 5, "device": "cpu"}}
    process = run.start(4, **often)
    begun = {
        "features": lambda: any((run.artifact(kind) / FEATURES / "c").glob("*/0")),
        "labels": (run.artifact(kind) / "_unfinished").exists,
        "checkpoints": lambda: any(run.artifact(kind).glob("_saved*")),
    }

    assert when(begun[kind], process), process.communicate()[0]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert run.all_ended()
    assert not (run.artifact(kind) / "_manifest.json").exists(), "in the midst of the stage"
    run.finish(2, **often)

    same_clusters(run, alone)
    close_to(run, alone)


def close_to(run: RankedRun, expected: RankedRun) -> None:
    """Check the weights, and the labels of the next epoch, which the caller's run then has."""
    found, wanted = (load_file(each.artifact("checkpoints") / MODEL) for each in (run, expected))
    steps = read_manifest(run.artifact("checkpoints")).rows // 64
    assert steps >= 50
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-3, msg=name)


def test_run__two_ranks_lead_to_the_next_labels_of_one(
    recipe: Path, alone: RankedRun, tmp_path: Path
) -> None:
    two = RankedRun(recipe, tmp_path / "two")
    one = replace(alone, run=tmp_path / "one")  # not the shared run, which has one epoch
    for run, ranks in ((two, 2), (one, 1)):
        run.finish(ranks, epochs=2, train={"reassign_every": 0.1})

    close_to(two, one)
    first, second = (read_labels(run.artifact("labels", 1)).cluster_N for run in (two, one))
    assert nmi(first, second) >= 0.95
