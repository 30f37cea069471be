"""The command that sends a run to a tracker."""

from pathlib import Path
from typing import Annotated

import typer

from deepcluster_core.tracking.registry import TRACKERS
from flows.cli.completion import complete_tracker
from flows.cli.help import USE, examples
from flows.cli.options import RunArgument, given, path

tracking = typer.Typer()


@tracking.command(
    rich_help_panel=USE,
    epilog=examples(
        "deepcluster track demo --to tensorboard",
        "deepcluster track demo --to mlflow --uri sqlite:///mlflow.db",
    ),
)
def track(
    run: RunArgument,
    to: Annotated[
        str,
        typer.Option(
            metavar="TRACKER", help=f"{', '.join(TRACKERS)}.", autocompletion=complete_tracker
        ),
    ],
    uri: Annotated[
        str | None,
        typer.Option(help="For mlflow: a store or server; MLFLOW_TRACKING_URI if left out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="For the others: a folder; one in the run if left out.", parser=path),
    ] = None,
) -> None:
    """Send metrics, pictures, recipe and provenance of a run to a tracker.

    Tracking again adds only what is new. compute.track does the same while a run goes on.
    """
    from flows.show.page_inputs import key_pictures  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415
    from stages.runs.tracking import place_given, track  # noqa: PLC0415

    place = place_given(to, uri, given(out))
    folder = existing_run(run_folder_of(run))
    where = track(folder, to, place, key_pictures(folder))
    print(f"{folder.address}: tracked in {where}")  # noqa: T201
