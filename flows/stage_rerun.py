"""Run one stage of one epoch again as a flow: in the run or, with changed settings, elsewhere."""

from dataclasses import replace
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.engine.flow_names import name_of_flow_run
from flows.engine.open_run import open_run
from flows.engine.run import FlowRun
from stages.runs.job import Job
from stages.runs.locate import existing_run, own_folder
from stages.runs.recipe import RecipeOverrides
from stages.runs.stage_request import StageName, check_fits, check_stage_request


def _name() -> str:
    """Return the name of the flow run in Prefect's UI, such as `train epoch 4 of demo`."""
    return name_of_flow_run("stage")


@flow(name="deepcluster-stage", flow_run_name=_name)
def rerun(
    stage: StageName,
    run: str = "demo",
    epoch: Annotated[int, Field(ge=0)] | None = None,
    overrides: RecipeOverrides | None = None,
    out: str | None = None,
    force: bool = False,
) -> str:
    """Run one stage on the artifacts of a run.

    Args:
        stage: name of the stage.
        run: folder of the run, or its name under `runs/`.
        epoch: number of the epoch; required for every stage except index.
        overrides: keys of the recipe, nested; requires `out`.
        out: another folder for the artifact; the run's own artifact is then left unchanged.
        force: run the stage even if the artifact exists.

    Returns:
        The folder of the artifact.
    """
    check_stage_request(stage, epoch, changed=overrides is not None, out=out)
    folder = existing_run(run)
    makes = "artifact" if out is None else "elsewhere"
    opened = open_run(str(folder.config), str(folder.root), None, overrides, makes=makes)
    changed_sections: set[str] = set()
    if overrides is not None:
        changed_sections = overrides.model_fields_set
    check_fits(opened.recipe, stage, epoch, changed_sections)
    job = _job(opened, stage, epoch)
    if out is not None:
        job = replace(job, out=own_folder(out, folder))
    cached = opened.ensure(job, force=force, accept_pruned=False)
    # Prune the inputs that were made again for this job, but keep the requested artifact.
    last_epoch = max(folder.epochs("metrics"), default=0)
    opened.prune(last_epoch, spare=job.out)
    opened.report.ended(job, cached=cached)
    return str(job.out)


def _job(run: FlowRun, stage: StageName, epoch: int | None) -> Job:
    """Return the job of a stage and an epoch. Plans the epochs before it, which it depends on."""
    num_epochs = 0 if epoch is None else epoch + 1  # index belongs to no epoch
    for job in run.plan_until(num_epochs):
        if job.stage.name == stage and job.epoch == epoch:
            return job
    raise AssertionError("every stage and epoch that `check_fits` accepts is planned")
