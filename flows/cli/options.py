"""Shared by the commands: options, and a context in which Prefect can run a flow."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepcluster_core.local_paths import check_is_local, expanded
from deepcluster_core.text import printable
from flows.cli.completion import complete_recipe, complete_run
from flows.cli.failures import print_error
from flows.engine.environment import NOTES
from flows.prefect_.embedded import EmbeddedServer

if TYPE_CHECKING:
    from stages.runs.recipe import RecipeOverrides

SERVER = EmbeddedServer()

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."),
]
Update = Annotated[
    bool,
    typer.Option("--update", help="Replace artifacts that were made with different settings."),
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Go on even if the run does not seem to fit on this machine.")
]

NotifyOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where to report the end of a run, a failure or a warning: a URL of Apprise, such as "
        "mailto://… or slack://…; DEEPCLUSTER_NOTIFY if left out.",
    ),
]


def path(text: str) -> Path:
    """Return the path that was typed. The help shows this function's name as the type.

    Raises:
        ConfigError: the text is a URL.
    """
    check_is_local(text)
    return expanded(text, Path())


def run_place(text: str) -> Path:
    """Return the path of a run that was typed, or its URL as a path, with one slash too few.

    Raises:
        ConfigError: the text is a URL, but not one of an object store, or holds credentials.
    """
    from stages.runs.remote_runs import url_of  # noqa: PLC0415

    url = url_of(text) if "://" in text else None
    return path(text) if url is None else Path(url)


RecipeArgument = Annotated[
    Path,
    typer.Argument(
        help="A YAML file, or the name of one in configs/: demo.",
        parser=path,
        autocompletion=complete_recipe,
    ),
]
EpochsOption = Annotated[
    int | None, typer.Option(min=0, help="Total number of epochs; the recipe's if left out.")
]
RunFolderOption = Annotated[
    Path,
    typer.Option(
        "--run",
        help="Folder or URL of the run.",
        parser=run_place,
        autocompletion=complete_run,
    ),
]
RunArgument = Annotated[
    Path,
    typer.Argument(
        help="Folder of the run or sweep, its name in runs/, or its URL: s3://bucket/runs/demo.",
        parser=run_place,
        autocompletion=complete_run,
    ),
]
EpochOption = Annotated[int | None, typer.Option(min=0, help="Number of the epoch, from 0.")]

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, whose fields the documentation lists.")
]


def given(path: Path | None) -> str | None:
    """Return the path of an option as absolute text, or None if the option was left out.

    The URL of a run is returned as it is.
    """
    if path is None:
        return None
    from stages.runs.remote_runs import url_of  # noqa: PLC0415

    url = url_of(str(path)) if ":/" in str(path) else None
    if url is not None:
        return url
    return str(path.absolute())


def flow_overrides(changes: dict[str, Any]) -> "RecipeOverrides | None":
    """Return changes of a recipe as the parameter of a flow; None if nothing is changed."""
    from stages.runs.recipe import RecipeOverrides  # noqa: PLC0415

    if not changes:
        return None
    return RecipeOverrides.model_validate(changes)


@contextmanager
def notifying(url: str | None) -> Iterator[None]:
    """Send notifications to a URL during the block; without one, to that of the environment.

    Raises:
        ConfigError: no service for notifications has such a URL.
    """
    from deepcluster_core.notification import check_url  # noqa: PLC0415
    from flows.engine.notifications import URL, notification_url  # noqa: PLC0415

    token = URL.set(url)
    try:
        check_url(notification_url())
        yield
    finally:
        URL.reset(token)


@contextmanager
def prefect_ready(*, quiet: bool = False) -> Iterator[None]:
    """Run a Prefect server during the block, and keep Prefect's own log lines off the terminal.

    Args:
        quiet: keep the lines and bars of flows off the terminal as well.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    from flows.engine.open_run import ON_TERMINAL  # noqa: PLC0415

    # Notes concern Prefect only, so they are printed by the commands that start it.
    while NOTES:
        note = NOTES.pop(0)
        print_error(f"deepcluster: {printable(note)}")
    if sys.stderr.isatty():
        print("starting Prefect …", file=sys.stderr)  # noqa: T201
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        # Nothing is lost: errors are raised as well, and `main` prints them.
        logging.getLogger(name).propagate = False
    ON_TERMINAL.set(not quiet)
    with SERVER.running():
        yield
