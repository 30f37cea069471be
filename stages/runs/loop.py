"""The DeepCluster loop: flows, tests, benchmarks and notebooks run epochs by this one function."""

from typing import Any

from stages.index import index
from stages.runs.epoch import Before
from stages.runs.run import Run


def run_epochs(run: Run[Any]) -> None:
    """Make the artifacts of all epochs of a run; those that are there are left as they are.

    Raises:
        DeepClusterError: see the stages. What is finished stays: calling this again goes on there.
    """
    images = run.make(index, None, source=run.source_fingerprint)
    before = Before()
    for epoch in run.epochs():
        before = run.make_epoch(epoch, images, before)
