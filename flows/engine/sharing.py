"""Make the artifacts that several runs have in common once, and link them into each run."""

import shutil
from collections.abc import Iterable
from contextlib import suppress

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.errors import ConfigError
from flows.engine.run import FlowRun
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.recipe import Recipe
from stages.runs.sharing import common_jobs, give


def share(
    run: FlowRun, runs: Iterable[tuple[RunFolder, Recipe]], *, varied: str, update: bool
) -> None:
    """Make the common artifacts of several runs in `run`, and give them to the runs without them.

    Args:
        run: run that makes the artifacts, with tasks of its own.
        runs: folder and recipe of each run; the recipes differ in one section only.
        varied: name of that section.
        update: replace common artifacts that were made with different settings.

    Raises:
        ConfigError: there are such artifacts, and `update` is false.
    """
    source = run.source_fingerprint
    # The runs that lack any of the common artifacts, with their own jobs for them.
    incomplete: list[tuple[RunFolder, list[Job]]] = []
    for folder, recipe in runs:
        jobs = common_jobs(folder, recipe, source=source, varied=varied)
        if not _all_done(jobs):
            incomplete.append((folder, jobs))
    if not incomplete:
        return
    # Make the artifacts once.
    shared_jobs = common_jobs(run.folder, run.recipe, source=source, varied=varied)
    for job in shared_jobs:
        if not update:
            _check_not_replaced(job)
        run.ensure(job, accept_pruned=False)
    titles = ", ".join(job.title for job in shared_jobs)
    run.report.info(f"made once for all runs: {titles}")
    # Link them into the runs.
    for folder, jobs in incomplete:
        for shared_job, job in zip(shared_jobs, jobs, strict=True):
            give(shared_job, job, folder)
        _give_records(run, shared_jobs, folder)


def _check_not_replaced(job: Job) -> None:
    """Raise ConfigError if a job would replace an artifact that was made with other settings."""
    condition, _ = inspect(job.out)
    if condition is Condition.WHOLE and read_manifest(job.out).key != job.key():
        raise ConfigError(
            f"{job.out}: was made from other images or with other settings than this sweep has.\n"
            f"  Fix: another --run keeps both; --update (the flow's parameter `update`) "
            f"replaces it."
        )


def _give_records(run: FlowRun, jobs: list[Job], other: RunFolder) -> None:
    """Copy Prefect's records of jobs to another run, so that their tasks show as Cached there."""
    for job in jobs:
        key = job.key()
        # Without a record, for example in another user's folder, the task shows as Completed.
        with suppress(OSError):
            other.task_results.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.records / key, other.task_results / key)


def _all_done(jobs: list[Job]) -> bool:
    """Return whether all artifacts exist."""
    # In order, up to the first that is missing: the keys of later jobs need the earlier artifacts.
    return all(job.is_done() for job in jobs)
