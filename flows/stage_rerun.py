"""One stage of one epoch again, in its place in the run or, with other settings, elsewhere."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, cast

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import expanded, refuse_url
from flows.engine.open_run import open_run
from flows.engine.run import FlowRun
from stages.runs.epoch import STAGES
from stages.runs.locate import existing_run, own_folder
from stages.runs.recipe import RecipeOverrides

StageName = Literal["index", "extract", "cluster", "train", "score"]


def _name() -> str:
    asked = flow_run.parameters
    of_epoch = "" if asked.get("epoch") is None else f" epoch {asked['epoch']}"
    return f"{asked['stage']}{of_epoch} of {Path(asked['run']).name}"


@flow(name="deepcluster-stage", flow_run_name=_name)
def rerun(
    stage: StageName,
    run: str = "demo",
    epoch: Annotated[int, Field(ge=0)] | None = None,
    overrides: RecipeOverrides | None = None,
    out: str | None = None,
    force: bool = False,
) -> str:
    """Run one stage, reading what the run has.

    Args:
        stage: which.
        run: folder of the run, or its name under `runs/`.
        epoch: needed for all stages but index.
        overrides: keys of the recipe, nested; needs `out`.
        out: another folder for the artifact; the run's own then stays as it is.
        force: run even if the artifact is there already.

    Returns:
        The folder of the artifact.
    """
    refuse_url(out or "", "out")
    check(stage, epoch, changed=overrides is not None, out=out)
    folder = existing_run(run)
    makes = "artifact" if out is None else "elsewhere"
    opened = open_run(str(folder.config), str(folder.root), None, overrides, makes=makes)
    _check_fits(opened, stage, epoch, overrides)
    planned = opened.plan_until(0 if epoch is None else epoch + 1)
    job = next(job for job in planned if (job.stage.name, job.epoch) == (stage, epoch))
    if out is not None:
        job = replace(job, out=own_folder(expanded(out, Path()), folder))
    cached = opened.ensure(job, force=force, accept_pruned=False)
    # Inputs that were made again on the way go again; what was asked for stays.
    opened.prune(max(folder.epochs("metrics"), default=0), spare=job.out)
    opened.report.ended(job, cached=cached)
    return str(job.out)


def check(stage: str, epoch: int | None, *, changed: bool, out: str | None) -> StageName:
    """Return the stage's name, or refuse what cannot be meant.

    Raises:
        ConfigError: no such stage, no epoch, or changed settings without a place of their own.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage {stage}: there is none; known: {', '.join(STAGES)}.")
    if epoch is None and stage != "index":
        raise ConfigError(f"stage {stage}: of which epoch?\n  Fix: --epoch N, counted from 0.")
    if changed and out is None:
        raise ConfigError(
            "Changed settings in the run's own place would make it a mixture of two runs.\n"
            "  Fix: give another folder: --out DIR."
        )
    return cast("StageName", stage)


def _check_fits(
    run: FlowRun, stage: StageName, epoch: int | None, overrides: RecipeOverrides | None
) -> None:
    """Refuse an epoch that the run does not have, and settings that the stage does not read."""
    if epoch is not None and epoch >= run.recipe.epochs:
        raise ConfigError(
            f"--epoch {epoch}: the run has epochs 0 to {run.recipe.epochs - 1}.\n"
            f"  Fix: deepcluster run RECIPE --epochs {epoch + 1} goes on to there."
        )
    reads = {*STAGES[stage].sections, "compute"}
    unread = sorted((overrides.model_fields_set if overrides else set()) - reads)
    if unread:
        raise ConfigError(
            f"{', '.join(unread)}: stage {stage} does not read it; it reads "
            f"{', '.join(sorted(reads))}."
        )
