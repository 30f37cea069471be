"""A run that is killed again and again ends as if nothing had happened."""

import random

import pytest

from tests.support.program import Program, kill_after, no_orphan_stays
from tests.support.run_files import learnt
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all

FEW, MANY = 2, 30


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(FEW, 1), pytest.param(MANY, 2, marks=[pytest.mark.slow, pytest.mark.timeout(4 * WITHIN_S)])],
)
def test_run__killed_at_random_moments(
    program: Program, undisturbed: Program, kills: int, seed: int
) -> None:
    draw = random.Random(seed)  # noqa: S311  no secret
    killed_at: list[str] = []
    while len(killed_at) < kills:
        last = kill_after(program.start(), program.run, draw)
        assert no_orphan_stays(program), "the server ends with the process that it belongs to"
        if last is None:  # it came to its end: all over again, with what Prefect remembers
            assert learnt(program.run) == learnt(undisturbed.run)
            program = Program(
                program.recipe, program.run.with_name(f"run{len(killed_at)}"), program.home
            )
        else:
            killed_at.append(last)

    program.finish()

    assert learnt(program.run) == learnt(undisturbed.run)
    left = [path for path in program.run.rglob("*") if path.name.startswith(("_saved", "_unfin"))]
    assert not left, "nothing of the killed attempts"
    states = program.flow_states()
    assert set(states) == {"CRASHED", "COMPLETED"}
    assert states[-1] == "COMPLETED"
    if kills == MANY:
        kinds = {name.partition("/")[0] for name in killed_at}
        stages = {"images", "features", "labels", "checkpoints", "metrics"}
        # Moments are random, so that the shortest stage can be missed.
        assert len(kinds & stages) >= 4, killed_at
        assert any("_manifest.json" in name for name in killed_at), "in the midst of a commit"
