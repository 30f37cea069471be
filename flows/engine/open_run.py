"""Open a run for a flow: everything is checked here, before anything long begins."""

from contextvars import ContextVar
from typing import Literal

from pydantic import BaseModel

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.errors import ConfigError
from flows.engine.environment import prepare
from flows.engine.report import Report
from flows.engine.run import Run
from flows.prefect_.crashed_runs import bury_dead, mark_alive
from stages.runs.access import refuse_unwritable_run
from stages.runs.folder import RunFolder
from stages.runs.locate import resolve
from stages.runs.recipe import Recipe, save_recipe
from stages.runs.settings_changes import refuse_other_settings

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
) -> Run:
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
        DeepClusterError: as `resolve` and, of a whole run, as `refuse_other_settings` and
            `refuse_unwritable_run`.
    """
    prepare()  # in a process that another program started: a worker, a notebook
    changes = overrides.model_dump(mode="json", exclude_unset=True) if overrides else {}
    loaded, folder = resolve(recipe, run, epochs, changes)
    report = Report(folder, epochs=loaded.epochs, echo=ON_TERMINAL.get())
    if makes == "run":
        refuse_unwritable_run(folder)
    opened = Run(folder, loaded, report, only_reads=makes == "elsewhere")
    bury_dead(opened.records)
    if makes == "run":
        if changed := refuse_other_settings(folder, loaded, update=update):
            report.say(f"other settings than before: {changed}; what depends on them is made again")
        _warn_inside_source(opened)
        _refuse_other_source(opened, update=update)
        opened.anyway = yes
        if opened.num_images is not None:
            opened.refuse_what_cannot_fit(opened.num_images)
        _write_config(loaded, folder)
    opened.alive = mark_alive(opened.records)
    return opened


def _warn_inside_source(run: Run) -> None:
    """Warn of a run among its own images, by whatever paths the two are named."""
    source, root = run.recipe.dataset.source.resolve(), run.folder.root.resolve()
    if source.is_dir() and root.is_relative_to(source):
        run.report.warn(
            f"{run.folder.root}: the run lies in the folder of its own images, "
            f"{run.recipe.dataset.source}; what it writes is not taken for images"
        )


def _refuse_other_source(run: Run, *, update: bool) -> None:
    """Refuse to replace images, and all that was made of them, because files have changed."""
    out = run.images
    if update or inspect(out)[0] is not Condition.WHOLE:
        return
    if read_manifest(out).inputs["source"] != run.source_fingerprint:
        raise ConfigError(
            f"{run.recipe.dataset.source}: its files have changed since {out} was made.\n"
            f"  Fix: another --run keeps both; --update (the flow's parameter `update`) indexes "
            f"them again and replaces what was made of them."
        )


def _write_config(recipe: Recipe, folder: RunFolder) -> None:
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, folder.config)
    except OSError as error:
        raise ConfigError(
            f"{folder.root}: cannot be written to ({error.strerror}).\n"
            f"  Fix: give another --run, or have the folder's permissions changed."
        ) from error
