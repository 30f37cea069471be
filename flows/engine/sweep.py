"""What a sweep does besides running its runs: make what they share, and compare them."""

from prefect.artifacts import create_table_artifact

from flows.engine.open_run import open_run
from flows.engine.report import FlowReport
from flows.engine.run import FlowRun
from flows.engine.sharing import share
from flows.prefect_.ui import dashed
from flows.show.sweep_table import tabulate, write_comparison
from flows.show.sweep_values import evaluated
from stages.runs.recipe import RecipeOverrides
from stages.runs.settled import as_begun
from stages.runs.sweep_plan import (
    Sweep,
    check_fits,
    check_sweep_writable,
    count_images,
    packed_images,
)


def make_shared(planned: Sweep, recipe: str, epochs: int | None, *, update: bool) -> FlowRun:
    """Check all values, make the artifacts that all runs share, and return the run that does.

    Args:
        planned: the sweep.
        recipe: path or name of its recipe.
        epochs: number of epochs of each run; None for the recipe's.
        update: replace shared artifacts that were made with different settings.
    """
    check_sweep_writable(planned)
    check_fits(planned, count_images(planned))
    # Shared artifacts do not depend on the varied key, so any member's overrides make them.
    overrides = RecipeOverrides.model_validate(planned.members[0].overrides)
    shared = open_run(recipe, str(planned.root.root), epochs, overrides, makes="artifact")
    # What the recipes leave open is settled for all runs alike.
    runs = [(one.folder, as_begun(one.recipe, shared.recipe)) for one in planned.members]
    # Everything depends on a key of no section, such as the seed.
    if planned.varied_section is not None:
        share(shared, runs, varied=planned.varied_section, update=update)
    # Check again: unreadable images have been left out, so there may be fewer than counted.
    check_fits(planned, packed_images(planned))
    return shared


def compare(planned: Sweep, report: FlowReport) -> None:
    """Write the table and the picture of a sweep unless they are up to date; report the result.

    Raises:
        ArtifactError: an epoch has no metrics, or they cannot be read.
    """
    if others := planned.others():
        names = ", ".join(others)
        report.info(f"\nnot compared, because not asked for: {names}")
    values = evaluated(planned)
    if values.unlike:
        names = ", ".join(values.unlike)
        report.info(f"\nnot compared, because made with different settings: {names}")
    if not write_comparison(planned, values):
        report.info("\nall runs exist and are compared already: nothing was made")
        return
    # Show the table in Prefect's UI too.
    name = dashed(planned.root.name) or "sweep"
    rows = tabulate(planned, values).to_dict("records")
    create_table_artifact(
        key=f"{name}-sweep", table=rows, description=f"Metrics by {planned.axis} and epoch"
    )
