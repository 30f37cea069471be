"""Load recipes, and run the epochs that they describe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepcluster.runs import Run, open_run
from deepcluster_core.errors import ConfigError
from stages.runs import loop
from stages.runs import recipe as recipes
from stages.runs.access import check_run_writable
from stages.runs.folder import RunFolder
from stages.runs.locate import run_path
from stages.runs.opening import begin
from stages.runs.recipe import Recipe
from stages.runs.report import Report
from stages.runs.run import Run as RunInProgress
from stages.runs.settled import resolve


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: path of a YAML file, or the name of a shipped one, such as `demo`. Paths in the file
            are relative to it.
        overrides: values that replace those in the file, nested: `{"cluster": {"k": 50}}`.

    Raises:
        ConfigError: the file cannot be read, or keys or values are invalid. All invalid keys and
            values are reported together.
    """
    return recipes.load_recipe(Path(path), overrides)


def run_epochs(
    recipe: str | Path | Recipe,
    run: str | Path | None = None,
    *,
    epochs: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    update: bool = False,
    anyway: bool = False,
    echo: bool = True,
) -> Run:
    """Run a recipe, as the command `deepcluster run` does, but without Prefect.

    Existing artifacts are reused, so a run that was interrupted continues where it stopped. The
    command can continue a run that was started here, and this function one that the command
    started. The run's report and overview picture are not drawn; `deepcluster report RUN` writes
    the report.

    Args:
        recipe: path or name of a YAML file, or a recipe from `load_recipe`.
        run: folder of the run, a name for one under `runs/`, or a URL such as
            `s3://bucket/runs/demo`; the name of the file if left out.
        epochs: total number of epochs of the run, including finished ones; the recipe's if left
            out.
        overrides: values that replace the recipe's, nested: `{"cluster": {"k": 50}}`.
        update: replace artifacts of the run that were made with different settings.
        anyway: continue even if the run does not seem to fit on this machine.
        echo: print a line for each epoch, and show progress bars.

    Returns:
        The run, opened.

    Raises:
        ConfigError: the recipe is invalid, the folder holds a run with different settings, or the
            run does not fit on this machine.
        SourceError: the images cannot be found or read.
        DeepClusterError: a stage failed. Finished artifacts stay.
    """
    resolved, folder = _resolve(recipe, run, epochs, overrides or {})
    check_run_writable(folder)
    # The parts of `deepcluster run` that do not need Prefect.
    report = Report(folder, epochs=resolved.num_epochs, echo=echo)
    in_progress = RunInProgress(folder, resolved, report)
    begin(in_progress, update=update, anyway=anyway)
    loop.run_epochs(in_progress)
    report.run_done()
    return open_run(folder.root.absolute())


def _resolve(
    given: str | Path | Recipe,
    run: str | Path | None,
    epochs: int | None,
    overrides: Mapping[str, Any],
) -> tuple[Recipe, RunFolder]:
    """Return the recipe with all changes, and the folder of the run."""
    if not isinstance(given, Recipe):
        run_text = None if run is None else str(run)
        return resolve(str(given), run_text, epochs, overrides)
    # A recipe from `load_recipe` does not know the name of its file.
    if run is None:
        raise ConfigError(
            "run_epochs: a recipe without a file needs a name for its run.\n"
            "  Fix: run_epochs(recipe, run=…)"
        )
    changes = dict(overrides)
    if epochs is not None:
        changes["epochs"] = epochs
    resolved = recipes.changed_recipe(given, changes)
    return resolved, RunFolder(run_path(str(run), resolved.compute))
