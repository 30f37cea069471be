"""What several runs have in common is made once, by one of them, and given to the others."""

import shutil
from collections.abc import Iterable
from contextlib import suppress

from flows.engine.run import FlowRun
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.recipe import Recipe
from stages.runs.sharing import common_jobs, give


def share(run: FlowRun, runs: Iterable[tuple[RunFolder, Recipe]], *, varied: str) -> None:
    """Make what the runs have in common in the place of `run`, and give it to those without it.

    Args:
        run: which makes it, with tasks of its own.
        runs: folder and recipe of each; the recipes differ in one section only.
        varied: that section.
    """
    source = run.source_fingerprint
    wanted = {
        folder: common_jobs(folder, recipe, source=source, varied=varied) for folder, recipe in runs
    }
    lacking = {folder: jobs for folder, jobs in wanted.items() if not _all_done(jobs)}
    if not lacking:
        return
    made = common_jobs(run.folder, run.recipe, source=source, varied=varied)
    for job in made:
        run.ensure(job, accept_pruned=False)
    run.report.say(f"made once for all runs: {', '.join(job.title for job in made)}")
    for folder, jobs in lacking.items():
        for one, other in zip(made, jobs, strict=True):
            give(one, other)
        _give_records(run, made, folder)


def _give_records(run: FlowRun, made: list[Job], other: RunFolder) -> None:
    """Give another run Prefect's records of jobs, so that their tasks show as Cached there."""
    for key in (job.key() for job in made):
        with suppress(OSError):  # another user's, for example: the task then shows as Completed
            other.task_results.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.records / key, other.task_results / key)


def _all_done(jobs: list[Job]) -> bool:
    """Tell whether all artifacts are there; the keys of the later ones need the earlier ones."""
    return all(job.is_done() for job in jobs)
