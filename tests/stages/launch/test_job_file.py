"""Jobs as JSON for other processes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.context import Context, SaveEvery
from deepcluster_core.errors import RanksError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.progress import silent
from deepcluster_core.ranks import ALONE
from deepcluster_core.stage import External, Input
from stages.evaluations.nmi import NmiConfig, nmi
from stages.evaluations.shared.epoch_metrics import EpochMetrics, MetricsOfEpochs
from stages.runs.job import Job
from stages.runs.launch.job_file import Surroundings, context_of, job_of, job_values
from stages.train import TrainConfig, train

AROUND = Surroundings(
    num_ranks=2,
    store="file:///store",
    device="cpu",
    workers=3,
    threads=1,
    timeout_s=60,
    watches_run=False,
)
CONTEXT = Context(
    seed=31,
    epoch=2,
    workers=3,
    save_every=SaveEvery(None, 7),
    scratch=Path("/fast/disk"),
    scratch_bytes=10**9,
)


@pytest.fixture
def job(images: Path, labels: Path, network: NetworkConfig) -> Job:
    """Return a job with every type that a section can have: tuples, numbers, text and None."""
    inputs = {"images": images, "labels": labels, "checkpoint": None}
    config = {"train": TrainConfig(crop_area=(0.5, 1.0)), "network": network}
    return Job(train, config, inputs, images.parent / "out", 31, 2)


def sent(job: Job) -> dict[str, Any]:
    return json.loads(json.dumps(job_values(job, CONTEXT, AROUND)))


def test_job_of__another_process_makes_the_same_artifact(job: Job) -> None:
    received = job_of(sent(job))

    assert received.key() == job.key()
    assert received == job


def test_job_of__inputs_of_every_kind(images: Path) -> None:
    """A stage with all of them does not exist, but each one belongs to a stage that does."""
    several = MetricsOfEpochs([EpochMetrics(3, images), EpochMetrics(0, images, 8)])
    inputs: dict[str, Input] = {
        "images": images,
        "metrics": several,
        "supervised": External(images / "index.parquet", "digest", 1),
        "source": "fingerprint",
        "checkpoint": None,
    }
    job = Job(nmi, {"protocol": NmiConfig()}, inputs, images.parent / "out", 31, 2)

    received = job_of(sent(job))

    assert received.inputs == inputs
    assert received.key() == job.key()


def test_job_of__a_process_that_would_make_another_artifact(job: Job) -> None:
    values = sent(replace(job, seed=32)) | {"seed": 31}  # as if one program derived other keys

    with pytest.raises(RanksError, match="install the same version on all machines"):
        job_of(values)


def test_context_of__everything_but_the_device_and_the_ranks(job: Job) -> None:
    received = context_of(sent(job), device="cuda:1", ranks=ALONE, progress=silent)

    assert received == replace(CONTEXT, device="cuda:1")
