"""The DeepCluster loop: one function that flows, tests, benchmarks and notebooks all call."""

from typing import Any

from stages.index import index
from stages.runs.epoch import Before
from stages.runs.run import Run


def run_epochs(run: Run[Any]) -> None:
    """Make the artifacts of all epochs of a run. Existing artifacts are reused.

    Raises:
        DeepClusterError: a stage failed. Finished artifacts stay, so calling this function again
            continues from there.
    """
    with run.claim.block():
        images = run.make(index, None, source=run.source_fingerprint)
        before = Before()  # the first epoch has no predecessor
        for epoch in range(run.recipe.num_epochs):
            before = run.make_epoch(epoch, images, before)
            run.finish_epoch(epoch)
