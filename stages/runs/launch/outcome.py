"""What became of the ranks of a launch: the one error that a person should see."""

import signal
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from deepcluster_core.errors import DeepClusterError, RanksError
from stages.runs.launch.messages import LAUNCHER_LOG, Failure, Messages, State, last_lines

Failed = tuple[int, Failure]
"""A rank and its error."""
GO_ON = "the same command then continues from the last save"


def error_of(
    messages: Messages,
    states: Sequence[State],
    *,
    out: Path,
    memory_ran_out: bool,
    launcher_code: int = 1,
) -> Exception:
    """Return the error to raise for ranks that have ended without making an artifact.

    It is the first error that is not the consequence of another: an error that a rank has raised,
    or else the end of a rank by a signal, or that a rank has waited in vain, whichever came first.
    A launcher kills ranks that do not end after another one has.

    Args:
        messages: the messages of the launch.
        states: the last reported states of the ranks, by their numbers.
        out: folder of the artifact.
        memory_ran_out: whether the kernel has ended processes of this control group since the
            launch because its memory was full.
        launcher_code: exit code of the launcher; a negative one is a signal.
    """
    raised = sorted(_failures(states), key=lambda failed: failed[1].time)
    causes = [failed for failed in raised if not _may_follow(failed[1])]
    if causes:
        return _raised(*causes[0], num_ranks=len(states))
    ended = _first_to_end(messages, states, out=out, memory_ran_out=memory_ran_out)
    if ended is not None:
        return ended
    # Where the launcher does not report exits. A rank whose process ends closes its connections, so
    # that nobody waits for it until the time is up.
    waited = [failed for failed in raised if not failed[1].is_consequence]
    if waited:
        return _raised(*waited[0], num_ranks=len(states))
    silent = [rank for rank, state in enumerate(states) if state.state == "started"]
    if silent:
        return _vanished(messages, silent, states, out)
    if raised:
        return _raised(*raised[0], num_ranks=len(states))
    return _not_failed(messages, states, out, launcher_code)


def _first_to_end(
    messages: Messages, states: Sequence[State], *, out: Path, memory_ran_out: bool
) -> Exception | None:
    """Return the error of the first rank that a signal has ended, or that has waited in vain."""
    for rank, code in messages.exits().items():
        failure = states[rank].failure
        if failure is not None and not failure.is_consequence:
            return _raised(rank, failure, num_ranks=len(states))
        if code < 0 and states[rank].state != "stopped":
            return _ended(messages, rank, states, -code, out=out, memory_ran_out=memory_ran_out)
    return None


def _not_failed(
    messages: Messages, states: Sequence[State], out: Path, launcher_code: int
) -> Exception:
    """Return the error about ranks that were stopped, or not even started."""
    stopped = [state.signal for state in states if state.signal is not None]
    if not stopped:
        return _not_started(messages, states, launcher_code)
    name = signal.Signals(stopped[0]).name
    return RanksError(
        f"{out}: its ranks were stopped by {name}, as a batch system or `kill` sends it.\n"
        f"  Fix: run the same command again; it continues from the last save."
    )


def _failures(states: Sequence[State]) -> list[Failed]:
    return [(rank, state.failure) for rank, state in enumerate(states) if state.failure is not None]


def _may_follow(failure: Failure) -> bool:
    """Return whether an error can follow from the end of another rank."""
    if failure.is_consequence:
        return True
    # A rank that has waited in vain: if another one has ended, that is the cause.
    return failure.is_known and issubclass(_class_of(failure), RanksError)


def _raised(rank: int, failure: Failure, *, num_ranks: int) -> Exception:
    """Return the error of a rank again: of its class if people can fix it, else with its traceback.

    No other class is created again, because each has arguments of its own.
    """
    if failure.is_known:
        kind = _class_of(failure)
        return kind.__new__(kind, failure.message)
    error = RuntimeError(
        f"rank {rank} of {num_ranks} raised {failure.name}: {failure.message}".rstrip(": ")
    )
    error.add_note(f"\nThe error of rank {rank}:\n\n{failure.traceback}")
    return error


def _class_of(failure: Failure) -> type[DeepClusterError]:
    found = import_module(failure.module)
    for name in failure.name.split("."):
        found = getattr(found, name)
    assert isinstance(found, type)
    assert issubclass(found, DeepClusterError)
    return found


def _ended(
    messages: Messages,
    rank: int,
    states: Sequence[State],
    number: int,
    *,
    out: Path,
    memory_ran_out: bool,
) -> Exception:
    """Return the error about a rank that a signal has ended."""
    name = _signal_name(number)
    this_rank = f"rank {rank} of {len(states)} (on {states[rank].host or 'its machine'})"
    if number not in _SENT:
        # A fault of a library: the log says where.
        return RuntimeError(f"{this_rank} was ended by {name}.\n{last_lines(messages.log(rank))}")
    if number != signal.SIGKILL:
        why = f"somebody, or a batch system, has sent it {name}"
    elif memory_ran_out:
        why = "main memory, or what the control group may use of it, was full"
    else:
        why = "most likely, main memory was full; `dmesg` says so. Or somebody has killed it"
    return RanksError(
        f"{out}: {this_rank} was ended by {name}.\n"
        f"  Cause: {why}.\n"
        f"  Fix:   if memory was full, set fewer compute.ranks, a smaller extract.batch_size or "
        f"train.batch_size; {GO_ON}."
    )


_SENT = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that come from outside; others mean a fault of the program."""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _vanished(
    messages: Messages, ranks: Sequence[int], states: Sequence[State], out: Path
) -> Exception:
    """Return the error about ranks that have ended without a word, and without a known signal."""
    listed = ", ".join(f"rank {rank} (on {states[rank].host})" for rank in ranks)
    return RanksError(
        f"{out}: {listed} ended without reporting an error.\n"
        f"  Cause: a signal, as when main memory was full, or a machine that failed. The last "
        f"lines of rank {ranks[0]}:\n{last_lines(messages.log(ranks[0]))}\n"
        f"  The last lines of the launcher:\n{_launcher_lines(messages)}\n"
        f"  Fix:   if memory was full, set fewer compute.ranks or smaller batches; {GO_ON}."
    )


def _not_started(messages: Messages, states: Sequence[State], launcher_code: int) -> Exception:
    """Return the error about a launcher that has not started all ranks."""
    absent = [rank for rank, state in enumerate(states) if state.state == "absent"]
    if launcher_code < 0:
        return RanksError(
            f"{len(absent)} of {len(states)} ranks were not started: their launcher was ended by "
            f"{_signal_name(-launcher_code)}.\n"
            f"  Cause: somebody has killed it, or main memory was full\n"
            f"  Fix:   {GO_ON}."
        )
    return RanksError(
        f"{len(absent)} of {len(states)} ranks were not started, and the launcher has ended.\n"
        f"  Cause: its last lines:\n{_launcher_lines(messages)}\n"
        f"  Fix:   compute.ranks=1 computes without a launcher."
    )


def _launcher_lines(messages: Messages) -> str:
    """Return the last lines of the launcher, and of those of other machines if there are any."""
    lines = [last_lines(messages.folder / LAUNCHER_LOG)]
    for log in sorted(messages.folder.glob("launcher-*.log")):  # as `join` names them
        lines.append(f"  Those of {log.stem.replace('launcher-', 'machine ')}:\n{last_lines(log)}")
    return "\n".join(lines)


def states_of(messages: Messages, num_ranks: int) -> list[State]:
    """Return the reported states of all ranks."""
    return [messages.state(rank) for rank in range(num_ranks)]


def are_done(states: Sequence[State]) -> bool:
    """Return whether all ranks have come to the end of the stage."""
    return all(state.state == "done" for state in states)
