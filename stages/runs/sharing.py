"""What several runs have in common is made once, and lies in each of them under its own name.

A second name for a file, a hard link, takes no space and no time, and leaves every run whole by
itself: it can be shown, gone on with, pruned, moved and deleted without regard to the others.
"""

import os
import shutil
from pathlib import Path

from deepcluster_core.artifacts.commit import UNFINISHED, lock, write_manifest
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.plan import plan
from stages.runs.recipe import Recipe


def common_jobs(folder: RunFolder, recipe: Recipe, *, source: str, varied: str) -> list[Job]:
    """Return the first jobs of a run that do not depend on one section of its recipe, in order.

    Args:
        folder: of the run.
        recipe: of the run.
        source: fingerprint of the source of its images.
        varied: the section, for example `cluster`: then index and the first extract remain.
    """
    planned = plan(folder, recipe, source=source, epochs=1)
    common: dict[Path, Job] = {}
    for job in planned:
        artifacts = [value for value in job.inputs.values() if isinstance(value, Path)]
        if varied not in job.stage.sections and all(path in common for path in artifacts):
            common[job.out] = job
    return list(common.values())


def give(made: Job, wanted: Job) -> None:
    """Put an artifact where another run wants it: the same files and, last, the same manifest.

    A folder that holds something else, an artifact of other settings for example, is left to the
    stage, which knows what it may delete.
    """
    if made.out == wanted.out:  # `images` of the recipe: one folder for all runs
        return
    with lock(wanted.out):
        if not _is_free(wanted.out):
            return
        shutil.rmtree(wanted.out, ignore_errors=True)
        wanted.out.mkdir()
        (wanted.out / UNFINISHED).touch()
        manifest = read_manifest(made.out)
        for name in manifest.files:
            _link(made.out / name, wanted.out / name)
        write_manifest(wanted.out, manifest)
        (wanted.out / UNFINISHED).unlink()


def _is_free(out: Path) -> bool:
    """Tell whether nothing lies there, or only what an attempt that was cut short left."""
    condition, _ = inspect(out)
    cut_short = condition is Condition.UNFINISHED and (out / UNFINISHED).exists()
    return condition is Condition.MISSING or cut_short


def _link(file: Path, name: Path) -> None:
    """Give a file a second name or, where the file system cannot, a copy."""
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copy2(file, name)  # keeps the time of change, so that nobody hashes it again
        with name.open("rb") as copied:
            os.fsync(copied.fileno())
