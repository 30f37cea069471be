"""Open a run for a flow."""

from contextvars import ContextVar
from typing import Any, Literal

from pydantic import BaseModel

from flows.engine.environment import prepare
from flows.engine.report import FlowReport
from flows.engine.run import FlowRun
from flows.prefect_.crashed_runs import mark_alive, mark_crashed_runs
from stages.runs.access import check_run_writable
from stages.runs.opening import begin
from stages.runs.settled import resolve
from stages.runs.tracking import LiveTracking

Makes = Literal["run", "artifact", "elsewhere"]
"""What a run is opened to make: all of it, one artifact in it, or a result elsewhere."""
ON_TERMINAL: ContextVar[bool] = ContextVar("ON_TERMINAL", default=False)
"""True if a person started the flow from a terminal and reads its output."""


def open_run(
    recipe: str,
    run: str | None,
    epochs: int | None,
    overrides: BaseModel | None,
    *,
    makes: Makes = "run",
    update: bool = False,
    yes: bool = False,
) -> FlowRun:
    """Check and open a run. If all of it is to be made, write its configuration.

    Args:
        recipe: path of a YAML file, or the name of one in `configs/`.
        run: a folder, or a name for one under `runs/`; None for the recipe's name.
        epochs: number of epochs; None for the recipe's.
        overrides: nested keys of the recipe.
        makes: `run` to make all of the run, `artifact` to make one artifact in it, or `elsewhere`
            to make a result in another folder, for which the run is only read.
        update: replace what was made with different settings.
        yes: continue even if the run does not seem to fit on this machine.

    Raises:
        DeepClusterError: the errors of `resolve` and, if all of the run is to be made, those of
            `begin` and `check_run_writable`.
    """
    prepare()  # a worker or a notebook may have started this process, and not the command
    changes: dict[str, Any] = {}
    if overrides is not None:
        changes = overrides.model_dump(mode="json", exclude_unset=True)
    loaded, folder = resolve(recipe, run, epochs, changes)
    report = FlowReport(folder, epochs=loaded.num_epochs, echo=ON_TERMINAL.get())
    if makes == "run":
        check_run_writable(folder)
        if loaded.compute.track is not None:
            report.tracking = LiveTracking(folder, loaded.compute.track, report.warn)
    only_reads = makes == "elsewhere"
    opened = FlowRun(folder, loaded, report, only_reads=only_reads)
    # Flow runs whose process was killed would be shown as running for ever.
    mark_crashed_runs(opened.records)
    if makes == "run":
        begin(opened, update=update, anyway=yes)
    opened.alive = mark_alive(opened.records)
    return opened
