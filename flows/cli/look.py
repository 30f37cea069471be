"""The command that shows the images of a run in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.help import LOOK, examples
from flows.cli.options import EpochOption, RunArgument, path

look_command = typer.Typer()


@look_command.command(
    rich_help_panel=LOOK,
    epilog=examples(
        "deepcluster look demo",
        "deepcluster look demo --epoch 3 --port 8000 --no-browser",
    ),
)
def look(
    run: RunArgument,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 is any that is free.")
    ] = 0,
    epoch: EpochOption = None,
    out: Annotated[
        Path,
        typer.Option(help="Existing folder in which copies of images are put.", parser=path),
    ] = Path(),
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Look at every image of every cluster in a browser, name clusters, take images out."""
    from flows.look.server import look  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415

    look(run_folder_of(run), epoch=epoch, port=port, browser=browser, out=out)
