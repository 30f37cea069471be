"""The DeepCluster loop as a Prefect flow. Stages exchange data only through artifacts on disk.

The loop itself is `run_epochs`, and the four steps of the method are in stages/runs/epoch.py. Each
stage becomes a Prefect task in flows/engine/run.py.
"""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.engine.notifications import notify_failure
from flows.engine.open_run import open_run
from stages.runs.loop import run_epochs
from stages.runs.recipe import RecipeOverrides


def _name() -> str:
    """Return the name of the flow run in Prefect's UI: the run and its recipe."""
    parameters = flow_run.parameters
    recipe = parameters["recipe"]
    run = parameters.get("run") or Path(recipe).stem
    return f"{Path(run).name} ({recipe})"


@flow(
    name="deepcluster",
    flow_run_name=_name,
    validate_parameters=True,
    on_failure=[notify_failure],
    on_crashed=[notify_failure],
)
def deepcluster(
    recipe: str = "configs/demo.yaml",
    run: str | None = None,
    epochs: Annotated[int, Field(ge=0)] | None = None,
    overrides: RecipeOverrides | None = None,
    update: bool = False,
    yes: bool = False,
) -> str:
    """Cluster, train and score, epoch by epoch.

    Args:
        recipe: path of a YAML file, or the name of one in `configs/`.
        run: folder of the run; `runs/<name of the recipe>` if left out.
        epochs: total number of epochs of the run, including finished ones; the recipe's if left
            out.
        overrides: keys of the recipe, nested: `{"cluster": {"k": 50}}`.
        update: replace artifacts of the run that were made with different settings.
        yes: continue even if the run does not seem to fit on this machine.

    Returns:
        The folder of the run.
    """
    opened = open_run(recipe, run, epochs, overrides, update=update, yes=yes)
    with opened.claim.block():
        run_epochs(opened)
        opened.report.run_done()  # also draws overview.png and writes report.html
    return str(opened.folder.root)
