"""A sweep as a Prefect flow: the loop for several k, as in figure 2(c), or values of any key."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field, JsonValue

from flows.engine.notifications import telling_failure
from flows.engine.sweep import compare, make_shared
from flows.epoch_loop import deepcluster
from stages.runs.recipe import RecipeOverrides
from stages.runs.sweep_options import varied
from stages.runs.sweep_plan import plan

Ks = Annotated[
    list[Annotated[int, Field(ge=2)]],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
]


def _name() -> str:
    """Return the name of the flow run in Prefect's UI: the sweep, its k and its recipe."""
    parameters = flow_run.parameters
    recipe = parameters["recipe"]
    over = parameters.get("over") or {"k": sorted(parameters.get("k") or ())}
    key, values = next(iter(over.items()))
    run = parameters.get("run") or f"{Path(recipe).stem}-{key}"
    listed = ", ".join(map(str, values))
    return f"{Path(run).name}: {key} = {listed} ({recipe})"


@flow(name="deepcluster-sweep", flow_run_name=_name)
def sweep(  # noqa: PLR0913, PLR0917  each is a parameter of the deployment
    k: Ks | None = None,
    recipe: str = "configs/demo.yaml",
    run: str | None = None,
    epochs: Annotated[int, Field(ge=0)] | None = None,
    overrides: RecipeOverrides | None = None,
    update: bool = False,
    yes: bool = False,
    over: dict[str, list[JsonValue]] | None = None,
) -> str:
    """Run a recipe for each k, or each value of another key, and compare the runs.

    Args:
        k: all numbers of clusters to compare. Existing runs are Cached.
        recipe: path of a YAML file, or the name of one in `configs/`.
        run: folder of the sweep; `runs/<name of the recipe>-k` if left out, or with the key.
        epochs: total number of epochs of each run, including finished ones; the recipe's if left
            out.
        overrides: keys of the recipe, nested, applied to every run.
        update: replace artifacts of the runs that were made with different settings.
        yes: continue even if a run does not seem to fit on this machine.
        over: another key of the recipe to vary, dotted, with all its values to compare, such as
            `{"train.lr": [0.01, 0.05]}`; `k` is then left out.

    Returns:
        The folder of the sweep.
    """
    changes: dict[str, Any] = {}
    if overrides is not None:
        changes = overrides.model_dump(mode="json", exclude_unset=True)
    key, values = varied(k, over)
    planned = plan(recipe, values, run, epochs, changes, key)
    with telling_failure(planned.root.name):
        shared = make_shared(planned, recipe, epochs, update=update)
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
    with telling_failure(planned.root.name):
        compare(planned, shared.report)
    return str(planned.root.root)
