"""A sweep as a Prefect flow: the loop for several k, the horizontal axis of figure 2(c)."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.engine.sweep import compare, make_shared
from flows.epoch_loop import deepcluster
from stages.runs.recipe import RecipeOverrides
from stages.runs.sweep_plan import plan

Ks = Annotated[
    list[Annotated[int, Field(ge=2)]],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
]


def _name() -> str:
    """Return the name of the flow run in Prefect's UI: the sweep, its k and its recipe."""
    parameters = flow_run.parameters
    recipe = parameters["recipe"]
    run = parameters.get("run") or f"{Path(recipe).stem}-k"
    ks = ", ".join(map(str, sorted(parameters["k"])))
    return f"{Path(run).name}: k = {ks} ({recipe})"


@flow(name="deepcluster-sweep", flow_run_name=_name)
def sweep(
    k: Ks,
    recipe: str = "configs/demo.yaml",
    run: str | None = None,
    epochs: Annotated[int, Field(ge=0)] | None = None,
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
    changes: dict[str, Any] = {}
    if overrides is not None:
        changes = overrides.model_dump(mode="json", exclude_unset=True)
    planned = plan(recipe, k, run, epochs, changes)
    shared = make_shared(planned, recipe, epochs)
    for member in planned.members:
        name = f"{planned.root.name}/{member.folder.name}"
        shared.report.info(f"\n{name}")
        # A flow run in the flow run: Prefect's UI shows each run by itself and below the sweep.
        run_member = deepcluster.with_options(flow_run_name=name)
        run_member(
            recipe,
            run=str(member.folder.root),
            epochs=epochs,
            overrides=RecipeOverrides.model_validate(member.overrides),
            update=update,
            yes=yes,
        )
    compare(planned, shared.report)
    return str(planned.root.root)
