"""Ranks talk through the loopback interface on one machine, and through a cable on two."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from deepcluster_core.artifacts.manifest import read_manifest
from tests.support.launching import LOOPBACK, ROOT, listening
from tests.support.namespaces import (
    ADDRESS,
    FIRST,
    JOIN,
    SECOND,
    inside,
    limit_rate,
    two_machines,
)
from tests.support.ranked_run import RankedRun
from tests.support.timeouts import WITHIN_S

pytestmark = [
    pytest.mark.slow,  # runs whose stages start several processes each
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


def test_run__listens_on_loopback_only_in_every_stage(ranked: RankedRun) -> None:
    process = ranked.start(2, train={"reassign_every": 20})
    seen: defaultdict[str, set[str]] = defaultdict(set)
    while process.poll() is None:
        stage = next(
            (
                kind
                for kind in ("checkpoints", "labels", "features")
                if (ranked.artifact(kind) / "_unfinished").exists()
            ),
            "other",
        )
        for number in ranked.processes():
            with suppress(OSError):  # it has ended
                seen[stage].update(listening([number]))

    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert seen["features"], "gloo listens"
    assert seen["checkpoints"]
    assert set().union(*seen.values()) == {LOOPBACK}


@pytest.fixture
def cable() -> Iterator[None]:
    """Connect two machines by one gigabit a second."""
    with two_machines():
        limit_rate("1gbit")
        yield


@pytest.mark.usefixtures("cable")
def test_run__two_machines_make_what_one_makes(ranked: RankedRun) -> None:
    one_machine = replace(ranked, run=ranked.run.with_name("one"))
    one_machine.finish(2)
    joined = subprocess.Popen(
        [*inside(SECOND), sys.executable, "-c", JOIN, ranked.run],
        env=ranked.environment(),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )

    compute = {"nodes": 2, "address": ADDRESS, "timeout_s": 120}
    process = ranked.start(2, *inside(FIRST), compute=compute)
    output, _ = process.communicate(timeout=WITHIN_S)
    second_output, _ = joined.communicate(timeout=WITHIN_S)

    assert (process.returncode, joined.returncode) == (0, 0), output + second_output
    assert second_output.count("takes part") == 4, "index, extract, cluster and train"
    for kind in ("features", "labels", "checkpoints"):
        assert ranked.files(kind) == one_machine.files(kind), kind
        assert read_manifest(ranked.artifact(kind)).ranks == 2
    assert ranked.all_ended()
    assert not list(ranked.scratch.iterdir())
