"""One rank of a stage: `python -m stages.rank JOB.json`, started R times by a launcher.

torchrun tells each process its number in RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE; srun
in SLURM_PROCID and so on. Everything else is in the job file. A rank takes no lock: the run that
waits for it holds the artifact's lock.
"""

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from deepcluster_core.errors import DeepClusterError, PeerLostError
from deepcluster_core.interrupts import SIGNALS
from deepcluster_core.progress import silent
from deepcluster_core.ranks import is_of_exchange
from stages.runs.launch.lifetime import PARENT, end_with_parent, start_time
from stages.runs.launch.messages import Failure, Messages, State, read_job
from stages.runs.launch.network import use_interface_towards

# ruff: noqa: PLC0415  the number of threads must be set before numerical libraries are imported

LOOK_EVERY_S = 0.5
"""Seconds between two looks at the wish of the run."""
GRACE_S = 5.0
"""Seconds until a rank that was asked to stop ends, unless its stage saves first."""
SILENCE_S = 30.0
"""Seconds after which a run on another machine counts as dead; it is heard of every 2 s."""
PROGRESS_EVERY_S = 0.5


class Stopped(BaseException):
    """Raised in the main thread by a signal to stop, unless the stage defers it to save first."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(frozen=True)
class Place:
    """The numbers of a rank."""

    rank: int
    num_ranks: int
    local_rank: int

    @classmethod
    def of_environment(cls) -> "Place":
        """Return the numbers that the launcher has put into the environment."""
        torch_names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        slurm_names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        names = torch_names if "RANK" in os.environ else slurm_names
        rank, num_ranks, local_rank = (int(os.environ[name]) for name in names)
        return cls(rank, num_ranks, local_rank)


def main(arguments: list[str]) -> None:
    """Run the stage of a job file as one of its ranks, and end the process."""
    parent = os.environ.get(PARENT)
    end_with_parent(None if parent is None else int(parent))
    job_file = Path(arguments[0])
    values = read_job(job_file)
    # Both runtimes of OpenMP read it when they are imported.
    os.environ["OMP_NUM_THREADS"] = str(values["threads"])
    place = Place.of_environment()
    messages = Messages(job_file.parent)
    _print_to(messages.log(place.rank))
    own = State("started", socket.gethostname(), os.getpid(), start_time(os.getpid()))
    messages.report_state(place.rank, own)
    for number in SIGNALS:
        signal.signal(number, _stop)
    _Watcher(messages, place.rank, own, watches_run=values["watches_run"]).start()
    try:
        _work(values, place, messages, own)
        end = replace(own, state="done")
    except Stopped as stopped:
        # The exit code is 0, because a launcher that sees a rank fail ends the others, which may
        # still be writing the save.
        end = replace(own, state="stopped", signal=stopped.number)
    except Exception as error:
        _fail(error, place, messages, own)
    messages.report_state(place.rank, end)
    _end(0)


def _work(values: dict[str, Any], place: Place, messages: Messages, own: State) -> None:
    """Join the other ranks and run the stage."""
    from deepcluster_core.memory import keep_freed_memory
    from deepcluster_core.process_group import joined
    from stages.runs.launch.job_file import context_of, job_of

    keep_freed_memory()
    # torchrun and Ray have named an interface, so that this is for srun.
    spans_machines = os.environ.get("SLURM_NNODES", "1") != "1"
    use_interface_towards(values["store"], spans_machines=spans_machines)
    job = job_of(values)
    device = _device(values["device"], place)
    progress = _Reporter(messages) if place.rank == 0 else silent
    with joined(
        values["store"],
        rank=place.rank,
        size=place.num_ranks,
        local_rank=place.local_rank,
        device=device,
        timeout_s=values["timeout_s"],
    ) as ranks:
        try:
            job.run(context_of(values, device=device, ranks=ranks, progress=progress))
        except Exception as error:
            # Not after the block, whose end can take long when another rank is gone.
            _fail(error, place, messages, own)


def _fail(error: Exception, place: Place, messages: Messages, own: State) -> NoReturn:
    """Report an error and end the process."""
    traceback.print_exc()
    failed = replace(own, state="failed", failure=_failure(error))
    messages.report_state(place.rank, failed)
    _end(1)


def _end(code: int) -> NoReturn:
    """End the process, but not as Python does, where torch may wait for a rank that is gone."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _device(kind: str, place: Place) -> str:
    """Return the torch device of a rank: the GPU of its number among those on its machine.

    Raises:
        ConfigError: the machine has too few GPUs.
    """
    if kind != "cuda":
        return kind
    import torch

    from deepcluster_core.errors import ConfigError

    num_visible = torch.cuda.device_count()
    # Batch systems can show each task its own GPU only.
    if num_visible == 1 and os.environ.get("SLURM_PROCID") is not None:
        return "cuda:0"
    if place.local_rank >= num_visible:
        raise ConfigError(
            f"compute.ranks: rank {place.rank} needs a GPU of its own, but {socket.gethostname()} "
            f"shows {num_visible}.\n"
            f"  Fix: set fewer compute.ranks, or ask the batch system for a GPU for each task."
        )
    return f"cuda:{place.local_rank}"


def _print_to(log: Path) -> None:
    """Append everything that this process prints to a file, whoever prints it."""
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(number, stream)
    os.close(number)
    faulthandler.enable()


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


def _failure(error: Exception) -> Failure:
    """Return the description of an error."""
    kind = type(error)
    return Failure(
        time=time.time(),
        module=kind.__module__,
        name=kind.__qualname__,
        message=str(error),
        is_known=isinstance(error, DeepClusterError),
        is_consequence=_is_consequence(error),
        traceback="".join(traceback.format_exception(error)),
    )


def _is_consequence(error: Exception) -> bool:
    """Return whether the end of another rank caused an error."""
    if isinstance(error, DeepClusterError):
        return isinstance(error, PeerLostError)
    return is_of_exchange(error)  # one that `process_group` does not explain


class _Reporter:
    """The progress of a stage, as messages to the run."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._reported_s = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        """Report the progress, unless that was done a moment ago."""
        now_s = time.monotonic()
        if done == total or now_s - self._reported_s >= PROGRESS_EVERY_S:
            self._reported_s = now_s
            self._messages.report_progress(done, total)


class _Watcher(threading.Thread):
    """Follows the wishes of the run, whatever the main thread does."""

    def __init__(self, messages: Messages, rank: int, own: State, *, watches_run: bool) -> None:
        super().__init__(name="watcher", daemon=True)
        self._messages, self._rank, self._own = messages, rank, own
        self._watches_run = watches_run
        self._beats = -1
        self._silent_looks = 0
        """Looks since the run was heard of. Time in which the file system does not answer, or this
        process is stopped, is none in which the run is silent."""
        self._asked_s: float | None = None

    def run(self) -> None:
        """Look again and again, until the process ends."""
        while True:
            self._look()
            time.sleep(LOOK_EVERY_S)

    def _look(self) -> None:
        try:
            wish, beats = self._messages.wished()
        except FileNotFoundError:
            os._exit(1)  # the folder was removed: nobody waits for this rank any more
        except (OSError, ValueError):
            return  # a network file system that does not answer at the moment
        self._silent_looks = self._silent_looks + 1 if beats == self._beats else 0
        self._beats = beats
        is_silent = self._silent_looks * LOOK_EVERY_S > SILENCE_S
        if wish == "kill" or (self._watches_run and is_silent):
            with suppress(OSError):
                self._messages.report_state(self._rank, replace(self._own, state="stopped"))
            os._exit(1)
        if wish == "stop":
            self._end_soon()

    def _end_soon(self) -> None:
        """Ask the main thread to stop; end the process if it neither stops nor saves."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
            return
        # Another handler means that the stage defers the signal until it has saved.
        is_deferred = signal.getsignal(signal.SIGTERM) is not _stop
        if not is_deferred and time.monotonic() - self._asked_s > GRACE_S:
            stopped = replace(self._own, state="stopped", signal=int(signal.SIGTERM))
            self._messages.report_state(self._rank, stopped)
            os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
