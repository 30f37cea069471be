"""Where the stages of a run run: in its own process, or in ranks that a launcher starts."""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.context import Context
from deepcluster_core.errors import RanksError
from stages.cluster import ClusterConfig, cluster, one_rank_setting
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.launch.job_file import Surroundings, job_values
from stages.runs.launch.launcher import Launch, Launcher, program_environment
from stages.runs.launch.messages import JOB, Messages, read_job
from stages.runs.launch.process import InProcess, use_threads
from stages.runs.launch.ray_launcher import Ray
from stages.runs.launch.srun import Srun, num_tasks
from stages.runs.launch.torchrun import Torchrun
from stages.runs.launch.watching import Watch
from stages.runs.machine import num_cores
from stages.runs.resources import MachineUse

EARLIER_END_WITHIN_S = 10.0
"""Seconds in which ranks end that see the wish of a run that they should."""
LAUNCHERS: dict[str, Launcher] = {
    "process": InProcess(),
    "torchrun": Torchrun(),
    "srun": Srun(),
    "ray": Ray(),
}
"""The launchers by the names that `compute.launcher` has for them. To add one, write its module and
an entry here, and add the name to `ComputeConfig`."""


@dataclass(frozen=True)
class Placement:
    """How many ranks a run has, and what starts them."""

    folder: RunFolder
    compute: ComputeConfig
    device: str
    name: str
    """Name of the launcher."""
    num_ranks: int

    @classmethod
    def of(cls, folder: RunFolder, compute: ComputeConfig, device: str) -> "Placement":
        """Decide on the ranks and the launcher. Nothing is started.

        Args:
            folder: folder of the run.
            compute: where the run computes.
            device: the device that `compute.device` means here.

        Raises:
            ConfigError: so many ranks cannot be started here, or not by this launcher.
        """
        name = compute.launcher
        if name == "auto":
            name = _launcher_for(compute, device)
        launcher = LAUNCHERS[name]
        num_ranks = compute.ranks
        if num_ranks == "auto":
            num_ranks = launcher.default_ranks(compute, device)
        launcher.check(compute, num_ranks, device)
        return cls(folder, compute, device, name, num_ranks)

    @property
    def launcher(self) -> Launcher:
        """The launcher."""
        return LAUNCHERS[self.name]

    @property
    def ranks_here(self) -> int:
        """The number of ranks that share this machine."""
        return self.launcher.ranks_here(self.compute, self.num_ranks)

    def use_of_machine(self) -> MachineUse:
        """Return how the ranks use this machine."""
        return MachineUse(self.device, self.num_ranks, self.ranks_here)

    @property
    def threads(self) -> int | None:
        """Threads of numerical libraries in a rank; None for the libraries' own choice."""
        if self.compute.threads is not None or self.name == "process":
            return self.compute.threads
        share = max(1, num_cores() // self.ranks_here)
        given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        return min(share, int(given)) if given.isdecimal() and int(given) else share

    def workers(self, job: Job) -> int:
        """Return the number of threads that read images, in each rank of a job."""
        if self.compute.workers is not None:
            return self.compute.workers
        return max(1, num_cores() // self.ranks_here) if self.is_launched(job) else num_cores()

    def is_launched(self, job: Job) -> bool:
        """Return whether a job runs in processes of its own."""
        if self.name == "process" or job.stage.ranks == "one":
            return False
        if job.stage is not cluster:
            return True
        section = job.config["cluster"]
        assert isinstance(section, ClusterConfig)
        return self.remark_on(section) is None

    def remark_on(self, section: ClusterConfig) -> str | None:
        """Return a remark if there are several ranks, but a recipe clusters on one of them."""
        if self.num_ranks == 1:
            return None
        setting = one_rank_setting(section)
        if setting is None:
            return None
        return (
            f"cluster.{setting} runs on one rank, in the process of the run; "
            f"index, extract and train use {self.num_ranks}"
        )

    def run(self, job: Job, context: Context) -> None:
        """Run a job where it belongs; the caller holds the lock of its artifact.

        Raises:
            DeepClusterError: the stage has failed, on one of its ranks if there are several.
        """
        if self.is_launched(job):
            self._launch(job, context)
            return
        if self.compute.threads is not None:
            use_threads(self.compute.threads)
        job.run(context)

    def _launch(self, job: Job, context: Context) -> None:
        """Run a job in ranks."""
        with self._folders(job) as (shared, local):
            launch = Launch(self.compute, self.num_ranks, shared, local, shared / JOB)
            threads = self.threads
            assert threads is not None
            surroundings = Surroundings(
                num_ranks=self.num_ranks,
                store=self.launcher.store(launch),
                device=self.device,
                workers=context.workers,
                threads=threads,
                timeout_s=self.compute.timeout_s,
                watches_run=self.launcher.spans_machines(self.compute),
            )
            messages = Messages(shared)
            messages.create(self.num_ranks, self.compute.nodes)
            messages.give_job(job_values(job, context, surroundings))
            environment = {
                **program_environment(),
                "OMP_NUM_THREADS": str(threads),
                **self.launcher.environment(launch),
            }
            self.launcher.announce(launch)
            watch = Watch(messages, self.num_ranks, self.compute.nodes, context.progress)
            watch.run(self.launcher.command(launch), environment, job.out)

    @contextmanager
    def _folders(self, job: Job) -> Iterator[tuple[Path, Path]]:
        """Make the folders of a launch: one for messages, and one on a disk of this machine.

        They are deleted afterwards. After an unexpected error, the logs stay.
        """
        # A file system of several machines may be slow, or have no locks, so that it is used only
        # if there are several machines.
        local = Path(tempfile.mkdtemp(prefix="deepcluster-ranks-"))
        shared = local
        if self.launcher.spans_machines(self.compute):
            epoch = "" if job.epoch is None else f"-{job.epoch}"
            name = f"{job.stage.name}{epoch}"
            for earlier in self.folder.messages.glob(f"{name}-*"):
                _end_earlier(earlier, job)
            shared = self.folder.messages / f"{name}-{secrets.token_hex(4)}"
            shared.mkdir(parents=True)
        keeps_logs = False
        try:
            yield shared, local
        except RuntimeError as error:  # a fault of the program in a rank
            error.add_note(f"The logs of the ranks are in {shared}")
            keeps_logs = True
            raise
        except RanksError as error:
            keeps_logs = True
            raise type(error)(f"{error}\n  Logs:  {shared}") from error
        finally:
            if not keeps_logs:
                shutil.rmtree(shared, ignore_errors=True)
            if shared != local:
                shutil.rmtree(local, ignore_errors=True)


def _end_earlier(folder: Path, job: Job) -> None:
    """End the ranks that a run which was killed may have left on other machines.

    They would end by themselves when they have not heard of it for a while, but until then, they
    would write beside the ranks that come now. The caller holds the lock of the artifact, so that
    no other run waits for them.

    Args:
        folder: the messages of an earlier launch of the stage.
        job: what is about to be launched.
    """
    with suppress(OSError, ValueError, KeyError):  # it ended before it had all files
        if read_job(folder / JOB)["out"] != str(job.out.absolute()):
            return  # of another artifact, perhaps of a run that lives
        messages = Messages(folder)
        messages.wish("kill")
        ranks = range(len(list(folder.glob("rank-*.json"))))
        deadline_s = time.monotonic() + EARLIER_END_WITHIN_S
        while any(messages.state(rank).state == "started" for rank in ranks):
            if time.monotonic() > deadline_s:
                break  # they have ended without a word, as by a signal
            time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _launcher_for(compute: ComputeConfig, device: str) -> str:
    """Return the launcher that `auto` means."""
    tasks = num_tasks()
    if tasks is not None and tasks > 1 and compute.ranks != 1:
        return "srun"
    torchrun = LAUNCHERS["torchrun"]
    num_ranks = compute.ranks
    if num_ranks == "auto":
        num_ranks = torchrun.default_ranks(compute, device)
    return "torchrun" if num_ranks > 1 else "process"
