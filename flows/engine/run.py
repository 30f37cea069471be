"""A run whose jobs are Prefect tasks. A task shows `Cached` if its artifact exists."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import CachePolicy

from flows.engine.report import FlowReport
from flows.prefect_.crashed_runs import Alive
from flows.prefect_.embedded import TASK_RUNS
from flows.prefect_.task_records import place_of_records, usable_place
from stages.runs.job import Job
from stages.runs.run import Run


@dataclass
class ByKey(CachePolicy):
    """A cache policy that uses the artifact's key, which the caller passes, and nothing else."""

    def compute_key(
        self,
        task_ctx: Any,  # noqa: ANN401  Prefect's signature
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,  # noqa: ANN401
    ) -> str:
        """Return the key."""
        return inputs["key"]


@task(cache_policy=ByKey(), persist_result=True, result_serializer="json")
def run_stage(key: str, body: Callable[[], str]) -> dict[str, str]:
    """Make an artifact. Prefect stores its key and digest; the artifact on disk is decisive."""
    return {"key": key, "digest": body()}


class FlowRun(Run[FlowReport]):
    """A run that a flow makes, with a task for each job."""

    alive: Alive | None = None
    """The mark that this process is alive, held while the run is in progress."""

    @cached_property
    def records(self) -> Path:
        """The folder with Prefect's records of tasks, and with the marks of live processes."""
        return place_of_records(self.folder, only_reads=self.only_reads)

    def execute(self, job: Job, key: str, body: Callable[[], str], *, done: bool) -> bool:
        """Call the body in a task, or only look up Prefect's record of that task."""
        records = usable_place(self.records, key, is_done=done)
        make = run_stage.with_options(
            name=job.stage.name,
            task_run_name=job.title,
            refresh_cache=not done,
            result_storage=records.resolve(),
        )
        state = make(key, body, return_state=True)
        # The server of this command must have recorded the task run before it ends.
        task_runs = TASK_RUNS.get()
        task_run_id = state.state_details.task_run_id
        if task_runs is not None and task_run_id is not None:
            task_runs.append(task_run_id)
        state.result()  # raises the error of the stage, if it failed
        # Prefect has no record of what was made without it, or on another machine.
        if state.name != "Cached":
            self.report.task_ran()
        return done
