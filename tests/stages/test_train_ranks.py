"""Train on two real ranks: an artifact like that of one, also after a stop."""

import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
import torch
from safetensors.torch import load_file

from deepcluster_core.artifacts.file_names import MODEL, MOMENTUM
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.ranks import ALONE, Ranks
from stages.train import TrainConfig, train
from tests.margins import SEED
from tests.support.gloo import on_processes

BATCH = 32


class Stopped(Exception):  # noqa: N818
    """Raised by SIGTERM, in place of the end of the process."""


@dataclass(frozen=True)
class Job:
    """What to train on; the same for all attempts."""

    images: Path
    labels: Path
    network: NetworkConfig

    def run(self, out: Path, ranks: Ranks, *, stopped_rank: int | None = None) -> None:
        """Train an epoch of 7.5 batches; send SIGTERM to one rank, if given, in the third step."""

        def progress(done: int, total: int | None) -> None:
            if ranks.rank == stopped_rank and done == 3 * BATCH:
                os.kill(os.getpid(), signal.SIGTERM)

        scratch = out.parent / "scratch"
        context = Context(seed=SEED, epoch=0, ranks=ranks, scratch=scratch, progress=progress)
        train.run(
            train=TrainConfig(batch_size=BATCH, lr=0.01, balance="weigh", precision="float32"),
            network=self.network,
            images=self.images,
            labels=self.labels,
            checkpoint=None,
            out=out,
            context=context,
        )


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


def several_attempts(job: Job, ranks: Ranks, folder: Path) -> bool:
    """Train twice without and once with a stop; return whether this rank was stopped."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, _stop)
    job.run(folder / "whole", ranks)
    job.run(folder / "again", ranks)
    was_stopped = False
    try:
        job.run(folder / "cut", ranks, stopped_rank=1)
    except Stopped:
        was_stopped = True
    assert inspect(folder / "cut")[0] is Condition.UNFINISHED
    ranks.barrier("all have looked at it")
    job.run(folder / "cut", ranks)
    return was_stopped


@pytest.mark.slow
def test_run__two_ranks_make_the_artifact_of_one(
    images: Path, labels: Path, network: NetworkConfig, tmp_path: Path
) -> None:
    job = Job(images, labels, network)
    job.run(tmp_path / "one", ALONE)
    assert not (tmp_path / "scratch").exists(), "one rank needs none"

    assert on_processes(2, partial(several_attempts, job), tmp_path) == [True, True]

    one, whole, again, cut = (
        read_manifest(tmp_path / name) for name in ("one", "whole", "again", "cut")
    )
    assert (whole.key, whole.rows) == (one.key, one.rows)
    assert whole.files.keys() == one.files.keys()
    assert whole.facts["loss"] == pytest.approx(one.facts["loss"], abs=1e-4)
    found, expected = (load_file(tmp_path / name / MODEL) for name in ("whole", "one"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-3, msg=name)
    assert again.digest == whole.digest
    assert (cut.digest, cut.facts) == (whole.digest, whole.facts)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {
        MODEL,
        MOMENTUM,
        "_manifest.json",
    }
