"""What a run takes of memory, in a process that has done nothing else."""

import pytest

from stages.runs.estimate import needs_of
from stages.runs.recipe import load_recipe
from tests.support.program import Program
from tests.support.run_files import manifests


@pytest.mark.slow
def test_needs_of__memory_is_enough_for_a_run(undisturbed: Program) -> None:
    needs = needs_of(load_recipe(undisturbed.run / "config.yaml"), num_images=240, device="cpu")

    peak = max(made.peak_memory_bytes for made in manifests(undisturbed.run).values())
    assert needs.memory > peak
