"""Which of the errors of several ranks a person sees."""

import signal
from pathlib import Path
from typing import Literal

import pytest

from deepcluster_core.errors import FeatureError, PeerLostError, RanksError
from stages.runs.launch.messages import Failure, Messages, State
from stages.runs.launch.outcome import error_of

OUT = Path("labels/epoch=0003")
MODULE = FeatureError.__module__


def failed(
    kind: type[Exception], message: str, *, time: float, is_consequence: bool = False
) -> State:
    is_known = kind.__module__ == MODULE
    failure = Failure(
        time, kind.__module__, kind.__qualname__, message, is_known, is_consequence, "traceback"
    )
    return State("failed", "host", failure=failure)


def ended(how: Literal["started", "stopped", "done"], number: int | None = None) -> State:
    return State(how, "host", signal=number)


def outcome(messages: Messages, *states: State, memory_ran_out: bool = False) -> Exception:
    messages.create(len(states))
    return error_of(messages, states, out=OUT, memory_ran_out=memory_ran_out)


@pytest.fixture
def messages(tmp_path: Path) -> Messages:
    return Messages(tmp_path)


def test_error_of__the_first_error_that_no_other_caused(messages: Messages) -> None:
    error = outcome(
        messages,
        failed(PeerLostError, "lost", time=1, is_consequence=True),
        failed(RanksError, "waited in vain", time=2),
        failed(FeatureError, "not finite", time=4),
        failed(FeatureError, "too few", time=3),
    )

    assert (type(error), str(error)) == (FeatureError, "too few")


def test_error_of__a_killed_rank_and_not_what_follows(messages: Messages) -> None:
    states = ended("started"), failed(PeerLostError, "lost", time=1, is_consequence=True)
    messages.create(2)
    messages.report_exits({1: 1, 0: -signal.SIGKILL})

    error = error_of(messages, states, out=OUT, memory_ran_out=True)

    assert isinstance(error, RanksError)
    assert "rank 0 of 2 (on host) was ended by SIGKILL" in str(error)
    assert "control group may use of it, was full" in str(error)


@pytest.mark.parametrize("lost", [0, 2])
def test_error_of__waited_for_a_rank_that_the_launcher_then_killed(
    messages: Messages, lost: int
) -> None:
    """With three ranks, those that waited end at once; another one notices that."""
    states = [ended("started")] * 3
    states[lost] = failed(PeerLostError, "lost", time=2, is_consequence=True)
    states[2 - lost] = failed(RanksError, "waited for rank 1", time=1)
    messages.create(3)
    messages.report_exits({0: 1, 2: 1, 1: -signal.SIGKILL})

    error = error_of(messages, states, out=OUT, memory_ran_out=False)

    assert (type(error), str(error)) == (RanksError, "waited for rank 1")


def test_error_of__a_rank_was_killed_before_another_has_waited_for_it(messages: Messages) -> None:
    states = failed(RanksError, "waited for rank 1", time=9), ended("started")
    messages.create(2)
    messages.report_exits({1: -signal.SIGKILL, 0: 1})

    error = error_of(messages, states, out=OUT, memory_ran_out=False)

    assert "rank 1 of 2 (on host) was ended by SIGKILL" in str(error)


def test_error_of__waited_in_vain_where_the_launcher_reports_no_exits(messages: Messages) -> None:
    error = outcome(messages, failed(RanksError, "waited for rank 1", time=1), ended("started"))

    assert (type(error), str(error)) == (RanksError, "waited for rank 1")


def test_error_of__a_rank_that_reported_nothing(messages: Messages) -> None:
    messages.log(1).write_text("the last thing it said\n")

    error = outcome(messages, ended("stopped", signal.SIGTERM), ended("started"))

    assert "rank 1 (on host) ended without reporting an error" in str(error)
    assert "the last thing it said" in str(error)


def test_error_of__only_consequences(messages: Messages) -> None:
    error = outcome(messages, failed(RanksError, "waited for rank 1", time=1), ended("done"))

    assert (type(error), str(error)) == (RanksError, "waited for rank 1")


def test_error_of__ranks_that_somebody_stopped(messages: Messages) -> None:
    error = outcome(messages, ended("stopped", signal.SIGTERM), ended("stopped", signal.SIGTERM))

    assert isinstance(error, RanksError)
    assert "stopped by SIGTERM" in str(error)


def test_error_of__a_launcher_that_starts_nothing(messages: Messages) -> None:
    (messages.folder / "launcher.log").write_text("srun: error: no such partition\n")

    error = outcome(messages, State(), State())

    assert "2 of 2 ranks were not started" in str(error)
    assert "no such partition" in str(error)


def test_error_of__what_the_launcher_of_another_machine_said(messages: Messages) -> None:
    (messages.folder / "launcher-1.log").write_text("ImportError: another torch\n")

    error = outcome(messages, State(), State())

    assert "Those of machine 1:\n    ImportError: another torch" in str(error)


def test_error_of__a_launcher_that_was_killed_before_it_started_ranks(messages: Messages) -> None:
    messages.create(2)

    error = error_of(
        messages, [State(), State()], out=OUT, memory_ran_out=False, launcher_code=-signal.SIGKILL
    )

    assert "their launcher was ended by SIGKILL" in str(error)
    assert "the same command then continues" in str(error)
