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
from stages.runs.sweep_plan import (
    VARIED,
    Sweep,
    check_k_fits,
    check_sweep_writable,
    count_images,
    packed_images,
)


def make_shared(planned: Sweep, recipe: str, epochs: int | None) -> FlowRun:
    """Check every k, then make the artifacts that all runs share; return the run that made them."""
    check_sweep_writable(planned)
    check_k_fits(planned, count_images(planned))
    # The shared artifacts do not depend on k, so any member's overrides make the right ones.
    overrides = RecipeOverrides.model_validate(planned.members[0].overrides)
    shared = open_run(recipe, str(planned.root.root), epochs, overrides, makes="artifact")
    runs = [(member.folder, member.recipe) for member in planned.members]
    share(shared, runs, varied=VARIED)
    # Check k again: unreadable images have been left out, so there may be fewer than counted.
    check_k_fits(planned, packed_images(planned))
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
        report.info(f"\nnot compared, because made with different settings for some k: {names}")
    if not write_comparison(planned, values):
        report.info("\nall k exist and are compared already: nothing was made")
        return
    # Show the table in Prefect's UI too.
    name = dashed(planned.root.name) or "sweep"
    rows = tabulate(planned, values).to_dict("records")
    create_table_artifact(key=f"{name}-sweep", table=rows, description="Metrics by k and epoch")
