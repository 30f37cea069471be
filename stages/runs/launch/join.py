"""Take part in a run that is in progress on another machine: start its ranks on this one."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.errors import ConfigError
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.launch.board import Notice, read_board
from stages.runs.launch.launcher import Launch, program_environment
from stages.runs.launch.messages import JOB, Messages
from stages.runs.launch.torchrun import agent_command, agent_environment

LOOK_EVERY_S = 0.5
SILENCE_S = 60.0
"""Seconds after which a run that is not heard of counts as ended."""
ENDS_WITHIN_S = 15.0
"""Seconds that ranks have to end after they were asked to."""


def join(folder: RunFolder, node: int, say: Callable[[str], None]) -> None:
    """Start this machine's share of the ranks for each stage of a run, until the run ends.

    Args:
        folder: the run, in a file system that all machines share.
        node: number of this machine among those of the run, from 1.
        say: prints a line for people.

    Raises:
        ConfigError: the run has no machine of this number.
    """
    Joined(folder, node, say).follow()


@dataclass
class Joined:
    """A machine that takes part in a run."""

    folder: RunFolder
    node: int
    say: Callable[[str], None]
    launch: str | None = None
    """The launch in which this machine took part last."""

    def follow(self) -> None:
        """Follow the board of the run."""
        self.say(f"waiting for {self.folder.root} on the first machine")
        first = read_board(self.folder.messages)
        beats = first.beats if first else 0
        heard_s: float | None = None  # never
        while True:
            notice = read_board(self.folder.messages)
            # What an earlier process has left on the board does not change any more.
            if notice is not None and notice.beats != beats:
                beats, heard_s = notice.beats, time.monotonic()
                if notice.has_ended:
                    self.say("the run has ended")
                    return
                if notice.launch not in (None, self.launch):
                    self._take_part(notice)
                    heard_s = time.monotonic()
            if heard_s is not None and time.monotonic() - heard_s > SILENCE_S:
                self.say(f"nothing heard of the run for {SILENCE_S:g} s: it has ended")
                return
            time.sleep(LOOK_EVERY_S)

    def _take_part(self, notice: Notice) -> None:
        """Run torchrun's agent for a launch, and report when it has ended."""
        assert notice.launch is not None
        self.launch = notice.launch
        if self.node >= notice.nodes:
            raise ConfigError(
                f"--node {self.node}: the run has machines 0 to {notice.nodes - 1} "
                f"(compute.nodes = {notice.nodes}).\n"
                f"  Fix: give each machine besides the first one a number of its own, from 1."
            )
        shared = (self.folder.messages / notice.launch).absolute()
        compute = ComputeConfig(nodes=notice.nodes, address=notice.address)
        with tempfile.TemporaryDirectory(prefix="deepcluster-ranks-") as local:
            launch = Launch(compute, notice.num_ranks, shared, Path(local), shared / JOB)
            self.say(f"{notice.launch}: takes part")
            self._run_agent(launch)

    def _run_agent(self, launch: Launch) -> None:
        messages = Messages(launch.folder)
        with suppress(FileNotFoundError):  # the launch is over already
            messages.report_node(self.node, "started")
            log = (launch.folder / f"launcher-{self.node}.log").open("wb")
            with log:
                agent = subprocess.Popen(  # noqa: S603  our own command
                    agent_command(launch, node=self.node),
                    env=program_environment() | agent_environment(launch.compute),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            try:
                _wait(agent, messages)
            finally:
                _kill(agent)
                messages.report_node(self.node, "ended")


def _wait(agent: "subprocess.Popen[bytes]", messages: Messages) -> None:
    """Wait for the end of an agent; its ranks follow the wishes of the run themselves."""
    told_s: float | None = None
    while agent.poll() is None:
        if told_s is None and _is_over(messages):
            told_s = time.monotonic()
        if told_s is not None and time.monotonic() - told_s > ENDS_WITHIN_S:
            return
        time.sleep(LOOK_EVERY_S)


def _is_over(messages: Messages) -> bool:
    """Return whether the run wants its ranks to end at once, or has removed the folder."""
    try:
        return messages.wished()[0] == "kill"
    except FileNotFoundError:
        return True
    except OSError:  # a network file system that does not answer at the moment
        return False


def _kill(agent: "subprocess.Popen[bytes]") -> None:
    if agent.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)  # its ranks end with it
        agent.wait()
