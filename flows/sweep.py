"""A sweep as a Prefect flow: the loop for several k, the horizontal axis of figure 2(c)."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from pydantic import Field

from flows.engine.open_run import open_run
from flows.engine.report import FlowReport
from flows.engine.run import FlowRun
from flows.engine.sharing import share
from flows.epoch_loop import deepcluster
from flows.prefect_.ui import dashed
from flows.show.sweep_table import tabulate, write_comparison
from flows.show.sweep_values import evaluated
from stages.runs.recipe import RecipeOverrides
from stages.runs.sweep_plan import (
    VARIED,
    Sweep,
    count_images,
    packed_images,
    plan,
    refuse_too_many,
    refuse_unwritable_sweep,
)

Ks = Annotated[
    list[Annotated[int, Field(ge=2)]],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
]


def _name() -> str:
    parameters = flow_run.parameters
    run = parameters.get("run") or f"{Path(parameters['recipe']).stem}-k"
    ks = ", ".join(map(str, sorted(parameters["k"])))
    return f"{Path(run).name}: k = {ks} ({parameters['recipe']})"


@flow(name="deepcluster-sweep", flow_run_name=_name)
def sweep(
    k: Ks,
    recipe: str = "configs/demo.yaml",
    run: str | None = None,
    epochs: Annotated[int, Field(ge=1)] | None = None,
    overrides: RecipeOverrides | None = None,
    update: bool = False,
    yes: bool = False,
) -> str:
    """Run a recipe for each k, and compare the runs.

    Args:
        k: all numbers of clusters to compare. Existing runs are Cached.
        recipe: path of a YAML file, or the name of one in `configs/`.
        run: folder of the sweep; `runs/<name of the recipe>-k` if left out.
        epochs: total number of epochs of each run, including finished ones; the recipe's if left
            out.
        overrides: keys of the recipe, nested, applied to every run.
        update: replace artifacts of the runs that were made with different settings.
        yes: continue even if a run does not seem to fit on this machine.

    Returns:
        The folder of the sweep.
    """
    planned = plan(recipe, k, run, epochs, _given(overrides))
    shared = _open(planned, recipe, epochs)
    runs = ((member.folder, member.recipe) for member in planned.members)
    share(shared, runs, varied=VARIED)
    # Check k again: unreadable images have been left out, so there may be fewer than counted.
    refuse_too_many(planned, packed_images(planned))
    for member in planned.members:
        name = f"{planned.root.name}/{member.folder.name}"
        shared.report.say(f"\n{name}")
        deepcluster.with_options(flow_run_name=name)(
            recipe,
            run=str(member.folder.root),
            epochs=epochs,
            overrides=RecipeOverrides.model_validate(member.overrides),
            update=update,
            yes=yes,
        )
    compare(planned, shared.report)
    return str(planned.root.root)


def _given(overrides: RecipeOverrides | None) -> dict[str, Any]:
    return overrides.model_dump(mode="json", exclude_unset=True) if overrides else {}


def _open(planned: Sweep, recipe: str, epochs: int | None) -> FlowRun:
    """Check every k, then open the run that makes the artifacts which all runs share."""
    refuse_unwritable_sweep(planned)
    refuse_too_many(planned, count_images(planned))
    overrides = RecipeOverrides.model_validate(planned.members[0].overrides)
    return open_run(recipe, str(planned.root.root), epochs, overrides, makes="artifact")


def compare(planned: Sweep, report: FlowReport) -> None:
    """Write the table and the picture of a sweep unless they are up to date; report the result.

    Raises:
        ArtifactError: an epoch has no metrics, or they cannot be read.
    """
    if others := planned.others():
        report.say(f"\nnot compared, because not asked for: {', '.join(others)}")
    values = evaluated(planned)
    if values.unlike:
        names = ", ".join(values.unlike)
        report.say(f"\nnot compared, because made with different settings for some k: {names}")
    if not write_comparison(planned, values):
        report.say("\nevery k was there already, and compared: nothing was made")
        return
    name = dashed(planned.root.name) or "sweep"
    rows = tabulate(planned, values).to_dict("records")
    create_table_artifact(key=f"{name}-sweep", table=rows, description="Metrics by k and epoch")
