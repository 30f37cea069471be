"""Open a run for a flow."""

from contextvars import ContextVar
from typing import Literal

from pydantic import BaseModel

from flows.engine.environment import prepare
from flows.engine.report import FlowReport
from flows.engine.run import FlowRun
from flows.prefect_.crashed_runs import bury_dead, mark_alive
from stages.runs.access import refuse_unwritable_run
from stages.runs.locate import resolve
from stages.runs.opening import begin

Makes = Literal["run", "artifact", "elsewhere"]
"""What a run is opened for."""
ON_TERMINAL: ContextVar[bool] = ContextVar("ON_TERMINAL", default=False)
"""Set where a person started the flow by hand and reads along."""


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
    """Return a run that is ready; one that is made as a whole has its configuration written.

    Args:
        recipe: as for `resolve`, like the next two.
        run: see there.
        epochs: see there.
        overrides: nested keys of the recipe.
        makes: all of the run, one artifact in it, or something elsewhere, for which the run is
            only read.
        update: replace what was made with other settings.
        yes: go on even where the run does not seem to fit on this machine.

    Raises:
        DeepClusterError: as `resolve` and, of a whole run, as `begin` and
            `refuse_unwritable_run`.
    """
    prepare()  # in a process that another program started: a worker, a notebook
    changes = overrides.model_dump(mode="json", exclude_unset=True) if overrides else {}
    loaded, folder = resolve(recipe, run, epochs, changes)
    report = FlowReport(folder, epochs=loaded.epochs, echo=ON_TERMINAL.get())
    if makes == "run":
        refuse_unwritable_run(folder)
    opened = FlowRun(folder, loaded, report, only_reads=makes == "elsewhere")
    bury_dead(opened.records)
    if makes == "run":
        begin(opened, update=update, anyway=yes)
    opened.alive = mark_alive(opened.records)
    return opened
