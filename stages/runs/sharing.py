"""Share artifacts that several runs have in common: made once, and hard-linked into each run.

A hard link takes no space and no time, and keeps every run self-contained: it can be shown,
continued, pruned, moved and deleted independently of the other runs. An object store has no links;
it copies the files itself.
"""

import os
import shutil
from pathlib import Path

from deepcluster_core.artifacts.commit import UNFINISHED, write_manifest
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.mirrored import commit, copy_on_store, fetched, hold
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.plan import plan
from stages.runs.recipe import Recipe


def common_jobs(folder: RunFolder, recipe: Recipe, *, source: str, varied: str) -> list[Job]:
    """Return the jobs of a run, in order, that do not depend on one section of its recipe.

    Only the first epoch is considered.

    Args:
        folder: folder of the run.
        recipe: recipe of the run.
        source: fingerprint of the source of its images.
        varied: name of the section. For `cluster`, the jobs are index and the first extract.
    """
    planned = plan(folder, recipe, source=source, epochs=1)
    common: dict[Path, Job] = {}
    for job in planned:
        # A job also depends on the section if one of its inputs does.
        if varied in job.stage.sections:
            continue
        artifacts = [value for value in job.inputs.values() if isinstance(value, Path)]
        if all(path in common for path in artifacts):
            common[job.out] = job
    return list(common.values())


def give(made: Job, wanted: Job, run: RunFolder) -> None:
    """Link the files of an artifact into another run, and write its manifest last.

    A folder that already holds something, such as an artifact made with other settings, is left to
    the stage, which knows what it can delete.

    Args:
        made: the job whose artifact exists.
        wanted: the job of the other run.
        run: the other run.
    """
    if made.out == wanted.out:  # the recipe's `images` is one folder for all runs
        return
    with hold(wanted.out, within=run.root):
        if not _is_free(wanted.out):
            return
        shutil.rmtree(wanted.out, ignore_errors=True)
        wanted.out.mkdir()
        # The mark makes an interrupted attempt recognisable.
        (wanted.out / UNFINISHED).touch()
        manifest = read_manifest(made.out)
        copied = set(copy_on_store(made.out, wanted.out, manifest.files))
        for name in manifest.files:
            # What is not here is fetched when a stage of the run opens it.
            if name not in copied or (made.out / name).exists():
                _link(fetched(made.out / name), wanted.out / name)
        write_manifest(wanted.out, manifest)
        (wanted.out / UNFINISHED).unlink()
        commit(wanted.out, copied)


def _is_free(out: Path) -> bool:
    """Return whether a folder is missing, or holds only what an interrupted `give` has left."""
    condition, _ = inspect(out)
    is_interrupted = condition is Condition.UNFINISHED and (out / UNFINISHED).exists()
    return condition is Condition.MISSING or is_interrupted


def _link(file: Path, name: Path) -> None:
    """Create a hard link to a file or, if the file system has none, a copy."""
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copy2(file, name)  # keeps the modification time, so that it is not hashed again
        with name.open("rb") as copied:
            os.fsync(copied.fileno())
