"""Messages between a run and its ranks: small files in one folder, the same for every launcher.

The run creates every file before the first rank starts, and messages replace them. A client of a
network file system can take a minute to notice a new name in a folder, but it reads a known name
anew whenever it opens it. Only the standard library is imported, because a rank reads its first
message before anything else.

    JOB.json         what to do, see job_file.py
    control          the wish of the run, and a number that grows while the run lives
    progress.json    progress, from the first rank
    rank-N.json      the state of rank N, see `State`
    rank-N.log       what rank N prints
    launcher.log     what the launcher prints
    node-M           what becomes of the ranks on machine M, unless it is the run's own
    exits.json       exit codes of ranks that failed, from launchers that know them
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

JOB, CONTROL, PROGRESS, EXITS = "JOB.json", "control", "progress.json", "exits.json"
LAUNCHER_LOG = "launcher.log"
Wish = Literal["run", "stop", "kill"]
"""What the run wants its ranks to do. stop: save and end; kill: end at once."""
NodeState = Literal["absent", "started", "ended"]
NUM_LAST_LINES = 15
TAIL_BYTES = 1 << 14


@dataclass(frozen=True)
class Failure:
    """An error that ended a rank."""

    time: float
    """Seconds since 1970, by the clock of the rank's machine."""
    module: str
    """The module of its class."""
    name: str
    """The qualified name of its class."""
    message: str
    is_known: bool
    """Whether it is a DeepClusterError, which is shown without a traceback."""
    is_consequence: bool
    """Whether another rank's end caused it."""
    traceback: str


@dataclass(frozen=True)
class State:
    """What a rank has reported about itself."""

    state: Literal["absent", "started", "done", "stopped", "failed"] = "absent"
    host: str = ""
    process: int = 0
    start_time: str | None = None
    """See `lifetime.start_time`."""
    signal: int | None = None
    """The signal that stopped it, in state `stopped`."""
    failure: Failure | None = None


class Messages:
    """The messages of one launch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._num_beats = 0

    def create(self, num_ranks: int, num_nodes: int = 1) -> None:
        """Create all files; the folder exists."""
        for node in range(1, num_nodes):
            self.report_node(node, "absent")
        self.wish("run")
        self.report_progress(0, None)
        self.report_exits({})
        for rank in range(num_ranks):
            self.report_state(rank, State())

    # From the run to its ranks

    def give_job(self, values: Mapping[str, Any]) -> None:
        """Write the job file."""
        self._write(JOB, json.dumps(values, indent=1))

    def wish(self, wish: Wish) -> None:
        """Tell the ranks what to do, and that the run is alive."""
        self._num_beats += 1
        self._write(CONTROL, f"{wish} {self._num_beats}")

    def wished(self) -> tuple[Wish, int]:
        """Return the wish of the run, and the number that grows while the run lives.

        Raises:
            FileNotFoundError: the run has removed the folder, so that nobody waits for the ranks.
        """
        wish, beats = (self.folder / CONTROL).read_text().split()
        return _WISHES[wish], int(beats)

    # From the ranks to the run

    def report_progress(self, done: int, total: int | None) -> None:
        """Report how many images are done."""
        self._write(PROGRESS, json.dumps([done, total]))

    def progress(self) -> tuple[int, int | None]:
        """Return the reported progress."""
        done, total = json.loads((self.folder / PROGRESS).read_text())
        return done, total

    def report_state(self, rank: int, state: State) -> None:
        """Report the state of a rank."""
        self._write(f"rank-{rank}.json", json.dumps(asdict(state)))

    def state(self, rank: int) -> State:
        """Return the reported state of a rank."""
        values = json.loads((self.folder / f"rank-{rank}.json").read_text())
        failure = values.pop("failure")
        return State(**values, failure=None if failure is None else Failure(**failure))

    def log(self, rank: int) -> Path:
        """Return the file with what a rank prints."""
        return self.folder / f"rank-{rank}.log"

    # From the launcher to the run

    def report_node(self, node: int, state: NodeState) -> None:
        """Report what becomes of the ranks on one of the other machines."""
        self._write(f"node-{node}", state)

    def node(self, node: int) -> NodeState:
        """Return what has become of the ranks on one of the other machines."""
        return _NODE_STATES[(self.folder / f"node-{node}").read_text()]

    def report_exits(self, codes: Mapping[int, int]) -> None:
        """Report the exit codes of ranks; a negative one is a signal."""
        self._write(EXITS, json.dumps({str(rank): code for rank, code in codes.items()}))

    def exits(self) -> dict[int, int]:
        """Return the exit codes that the launcher has reported, by rank; the first to end first."""
        found: dict[str, int] = json.loads((self.folder / EXITS).read_text())
        return {int(rank): code for rank, code in found.items()}

    def _write(self, name: str, text: str) -> None:
        """Replace a file, so that readers see the old text or the new one."""
        part = self.folder / f".{name}.{os.getpid()}"
        part.write_text(text)
        part.replace(self.folder / name)


_NODE_STATES: dict[str, NodeState] = {"absent": "absent", "started": "started", "ended": "ended"}
_WISHES: dict[str, Wish] = {"run": "run", "stop": "stop", "kill": "kill"}


def read_job(path: Path) -> dict[str, Any]:
    """Return the values of a job file."""
    return json.loads(path.read_text())


def last_lines(log: Path) -> str:
    """Return the last lines of a log, indented; empty if there are none."""
    with suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()[-NUM_LAST_LINES:]
        return "\n".join(f"    {line}" for line in lines)
    return ""
