"""Evaluations in real processes: one rank and two write the same bytes."""

from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations import knn, linear, mlp, rank
from stages.evaluations.declaration import Evaluation
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.launch.placement import Placement
from tests.margins import SEED

TRAINED = {"epochs": 2, "batch_size": 32, "folds": 2, "weight_decays": [0.0001, 0.01]}
FIXED = {**TRAINED, "random_crop": False, "flip": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evaluation", "changes"),
    [
        pytest.param(knn.EVALUATION, {"ks": [1, 5], "batch_size": 16, "resize": 20}, id="knn"),
        pytest.param(linear.EVALUATION, FIXED, id="linear"),
        pytest.param(linear.EVALUATION, TRAINED, id="linear on random views"),
        pytest.param(mlp.EVALUATION, FIXED, id="mlp"),
        pytest.param(rank.EVALUATION, {"images": 40, "views": 2, "batch_size": 16}, id="rank"),
    ],
)
def test_evaluation__one_and_two_ranks_write_the_same_bytes(
    evaluation: Evaluation,
    changes: dict[str, object],
    network: NetworkConfig,
    images: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    name = evaluation.stage.name
    given = {"precision": "float32"} | changes
    protocol = load_protocol(PROTOCOLS / f"{name}.yaml", evaluation.protocol, given)
    artifacts: dict[str, Any] = {"images": images, "checkpoint": checkpoint}
    if evaluation.data == "labelled":
        artifacts["validation"] = None
    inputs = evaluation.inputs(protocol, **artifacts)
    config: dict[str, StrictConfig] = {"network": network, "protocol": protocol}

    def made_by(num_ranks: int) -> Manifest:
        compute = ComputeConfig(device="cpu", ranks=num_ranks, threads=1)
        placement = Placement.of(RunFolder(tmp_path / "run"), compute, "cpu")
        job = Job(evaluation.stage, config, inputs, tmp_path / str(num_ranks), SEED, 0)
        placement.run(job, Context(seed=SEED, epoch=0, workers=1))
        return read_manifest(job.out)

    one, two = made_by(1), made_by(2)

    assert (two.key, two.digest, two.facts) == (one.key, one.digest, one.facts)
    assert (one.ranks, two.ranks) == (None, 2)
    assert two.moved_bytes, "the second rank has sent features"
