"""The same run for several k, the axis of figure 2(c), as a Prefect flow around the loop."""

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
    """Run a recipe for each k, and compare.

    Args:
        k: all numbers of clusters of the comparison; those whose runs are there are Cached.
        recipe: path of a YAML file, or the name of one in `configs/`.
        run: folder of the sweep; `runs/<name of the recipe>-k` when left out.
        epochs: how many each run shall have, those already there included.
        overrides: keys of the recipe, nested, the same for all k.
        update: replace artifacts of its runs that were made with other settings.
        yes: go on even where a run does not seem to fit on this machine.

    Returns:
        The folder of the sweep.
    """
    planned = plan(recipe, k, run, epochs, _given(overrides))
    shared = _open(planned, recipe, epochs)
    share(shared, ((one.folder, one.recipe) for one in planned.members), varied=VARIED)
    refuse_too_many(planned, packed_images(planned))  # some may have been unreadable
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
    """Return what makes the artifacts that all runs share, once no k is refused."""
    refuse_unwritable_sweep(planned)
    refuse_too_many(planned, count_images(planned))
    overrides = RecipeOverrides.model_validate(planned.members[0].overrides)
    return open_run(recipe, str(planned.root.root), epochs, overrides, makes="artifact")


def compare(planned: Sweep, report: FlowReport) -> None:
    """Write the table and the picture of a sweep, unless they are there, and tell of them.

    Raises:
        ArtifactError: an epoch is not scored, or cannot be read.
    """
    if others := planned.others():
        report.say(f"\nnot compared, because not asked for: {', '.join(others)}")
    values = evaluated(planned)
    if values.unlike:
        report.say(f"\nnot compared, because made otherwise for some k: {', '.join(values.unlike)}")
    if not write_comparison(planned, values):
        report.say("\nevery k was there already, and compared: nothing was made")
        return
    name = dashed(planned.root.name) or "sweep"
    rows = tabulate(planned, values).to_dict("records")
    create_table_artifact(key=f"{name}-sweep", table=rows, description="Metrics by k and epoch")
