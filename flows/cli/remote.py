"""The commands that copy a run to an object store and back."""

import time
from pathlib import Path
from typing import Annotated

import typer

from deepcluster_core.errors import ConfigError
from deepcluster_core.text import shell_words
from flows.cli.help import USE, examples
from flows.cli.options import RunArgument, path

remotes = typer.Typer()

UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="s3://BUCKET/PATH, gs://BUCKET/PATH or az://….")
]
UpdateOption = Annotated[
    bool, typer.Option("--update", help="Replace artifacts there that differ.")
]


@remotes.command(
    rich_help_panel=USE,
    epilog=examples("deepcluster push demo s3://bucket/runs/demo"),
)
def push(run: RunArgument, url: UrlArgument, update: UpdateOption = False) -> None:
    """Copy a run to an object store: only what is not there yet.

    After an interruption, the same command goes on. Credentials come from the environment.
    """
    from deepcluster_core.artifacts.mirrored import mirror_of  # noqa: PLC0415
    from deepcluster_core.artifacts.remote.transfer import push_run  # noqa: PLC0415
    from deepcluster_core.artifacts.remote.urls import normal_url  # noqa: PLC0415
    from flows.show.transfer import show_transferred, showing_bytes  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415

    folder = existing_run(run_folder_of(run))
    if mirror_of(folder.root) is not None:
        raise ConfigError(
            f"{folder.address}: lies on an object store already, and only parts of it are here.\n"
            f"  Fix: deepcluster pull {shell_words(folder.address)} FOLDER, then push that folder."
        )
    target = normal_url(url)
    start = time.monotonic()
    with showing_bytes("uploaded") as progress:
        done = push_run(folder.root, target, progress, update=update)
    show_transferred(done, str(folder.root), target, time.monotonic() - start)


@remotes.command(
    rich_help_panel=USE,
    epilog=examples("deepcluster pull s3://bucket/runs/demo runs/demo"),
)
def pull(
    url: UrlArgument,
    run: Annotated[Path, typer.Argument(help="Folder to write, or a name in runs/.", parser=path)],
    update: UpdateOption = False,
) -> None:
    """Copy a run from an object store: only what is not here yet.

    The copy is an ordinary run. After an interruption, the same command goes on.
    """
    from deepcluster_core.artifacts.remote.transfer import pull_run  # noqa: PLC0415
    from deepcluster_core.artifacts.remote.urls import normal_url  # noqa: PLC0415
    from flows.show.transfer import show_transferred, showing_bytes  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415

    folder = Path(run_folder_of(run))
    source = normal_url(url)
    start = time.monotonic()
    with showing_bytes("downloaded") as progress:
        done = pull_run(source, folder, progress, update=update)
    show_transferred(done, source, str(folder), time.monotonic() - start)
