"""The command with which another machine takes part in a run."""

from typing import Annotated

import typer

from deepcluster_core.errors import ConfigError
from flows.cli.help import RUN, examples
from flows.cli.options import RunArgument

joining = typer.Typer()


@joining.command(rich_help_panel=RUN, epilog=examples("deepcluster join runs/mine --node 1"))
def join(
    run: RunArgument,
    node: Annotated[
        int, typer.Option(min=1, help="Number of this machine; the first one, with the run, is 0.")
    ] = 1,
) -> None:
    """Take part in a run on another machine (compute.nodes), until the run ends."""
    from stages.runs.launch.join import join  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415
    from stages.runs.remote_runs import url_of  # noqa: PLC0415

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    if url_of(str(run)) is not None:
        raise ConfigError(
            f"join {url_of(str(run))}: the machines of one run exchange messages in a folder.\n"
            f"  Fix: set compute.scratch to a folder that all of them share, and give the run's "
            f"folder in it: {run_folder_of(run)}"
        )
    join(existing_run(run_folder_of(run)), node, say)
