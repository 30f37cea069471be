"""Start the command of a launcher, and watch over its ranks until none of them lives."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deepcluster_core.errors import RanksError
from deepcluster_core.interrupts import HeldBack, Interrupted, held_back
from deepcluster_core.limits import num_memory_kills
from deepcluster_core.progress import Progress
from stages.runs.launch.lifetime import kill
from stages.runs.launch.messages import LAUNCHER_LOG, Messages, State, Wish
from stages.runs.launch.outcome import are_done, error_of, states_of

LOOK_EVERY_S = 0.1
BEAT_EVERY_S = 2.0
"""Seconds between two messages that the run is alive."""
OTHERS_END_WITHIN_S = 10.0
"""Seconds in which all ranks end, after those of one machine have."""
ENDS_WITHIN_S = 5.0
"""Seconds that a launcher has to end after its ranks were asked to end at once."""
DIES_WITHIN_S = 60.0
"""Seconds in which a killed process must be gone; longer only if its disk does not answer."""


class Watch:
    """A launcher that runs, and the messages of its ranks."""

    def __init__(self, messages: Messages, num_ranks: int, nodes: int, progress: Progress) -> None:
        self._messages = messages
        self._nodes = nodes
        self._num_ranks = num_ranks
        self._progress = progress
        self._shown: tuple[int, int | None] = (0, None)
        self._beat_s = time.monotonic()
        self._node_ended_s: float | None = None
        self._has_killed = False
        """Whether this class has ended the launcher."""

    def run(self, command: Sequence[str], environment: Mapping[str, str], out: Path) -> None:
        """Run a launcher's command to its end. Then no rank on this machine lives any more.

        The first signal to stop is passed on to the ranks, and takes effect after they have saved
        and ended. A second one ends everything at once.

        Args:
            command: the command.
            environment: all variables for it.
            out: folder of the artifact, for messages.

        Raises:
            Interrupted: a signal has stopped the ranks, and its handler has not raised.
            DeepClusterError: an error that a rank has raised, or RanksError if one of them has been
                killed.
            RuntimeError: an unexpected error of a rank, whose traceback is in the notes.
        """
        memory_kills = num_memory_kills()
        with held_back() as held:
            with (self._messages.folder / LAUNCHER_LOG).open("wb") as log:
                # In a session of its own: Ctrl-C on the terminal is for the run alone.
                process = subprocess.Popen(  # noqa: S603  our own command
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            try:
                self._wait(process, held)
            finally:
                self._end(process)
            states = states_of(self._messages, self._num_ranks)
            if are_done(states):
                return
            if held.signal is not None:
                raise Interrupted
        ran_out = num_memory_kills() > memory_kills
        raise error_of(
            self._messages,
            states,
            out=out,
            memory_ran_out=ran_out,
            launcher_code=1 if self._has_killed else process.returncode,
        )

    def _wait(self, process: "subprocess.Popen[bytes]", held: HeldBack) -> None:
        """Wait for the launcher's end; report progress, and pass on a signal to stop."""
        while process.poll() is None:
            with suppress(OSError):  # a network file system that does not answer at the moment
                if self._ask(held) == "kill":
                    return  # to `_end`
                self._show_progress()
            time.sleep(LOOK_EVERY_S)
        self._show_progress()

    def _ask(self, held: HeldBack) -> Wish | None:
        """Now and then, tell the ranks what they should do, and return it; None in between."""
        now_s = time.monotonic()
        if now_s - self._beat_s <= BEAT_EVERY_S and held.signal is None:
            return None
        self._beat_s = now_s
        wish = self._next_wish(held, now_s)
        if wish != "kill":
            self._messages.wish(wish)
        return wish

    def _next_wish(self, held: HeldBack, now_s: float) -> Wish:
        """Return what the ranks should do now."""
        # torchrun on this machine does not see that its ranks have ended on another one.
        ended = [self._messages.node(node) == "ended" for node in range(1, self._nodes)]
        if not any(ended):
            self._node_ended_s = None
        elif self._node_ended_s is None:
            self._node_ended_s = now_s
        elif now_s - self._node_ended_s > OTHERS_END_WITHIN_S:
            return "kill"
        return "run" if held.signal is None else "stop"

    def _show_progress(self) -> None:
        reached = self._messages.progress()
        if reached != self._shown:
            self._shown = reached
            self._progress(*reached)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """Make sure that the launcher and all ranks have ended.

        Raises:
            RanksError: a rank has not ended.
        """
        if process.poll() is None:
            self._messages.wish("kill")
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDS_WITHIN_S)
        if process.poll() is None:
            self._has_killed = True
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        states = states_of(self._messages, self._num_ranks)
        for rank, state in enumerate(states):
            _kill(rank, state)
        if not are_done(states):
            self._messages.wish("kill")
            for node in range(1, self._nodes):
                self._wait_for(node)

    def _wait_for(self, node: int) -> None:
        """Wait until no rank runs on one of the other machines.

        Raises:
            RanksError: that takes too long.
        """
        deadline = time.monotonic() + DIES_WITHIN_S
        while self._messages.node(node) == "started":
            if time.monotonic() > deadline:
                raise RanksError(
                    f"machine {node}: has not reported that its ranks have ended.\n"
                    f"  Cause: it, its network or its `deepcluster join` has failed\n"
                    f"  Fix:   make sure that none of them runs there, start `deepcluster join` "
                    f"again, and then the same command."
                )
            time.sleep(LOOK_EVERY_S)


def _kill(rank: int, state: State) -> None:
    """Kill a rank on this machine that lives, so that it cannot write beside the next attempt.

    Raises:
        RanksError: it has not ended.
    """
    if state.host != socket.gethostname():
        return
    if not kill(state.process, state.start_time, within_s=DIES_WITHIN_S):
        raise RanksError(
            f"rank {rank} (process {state.process}) has been killed and does not end.\n"
            f"  Cause: it waits for a disk or a GPU that does not answer\n"
            f"  Fix:   wait until `ps {state.process}` does not show it, and only then run the "
            f"same command again."
        )
