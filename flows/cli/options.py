"""Shared by the commands: options, and a context in which Prefect can run a flow."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from deepcluster_core.local_paths import expanded, refuse_url
from deepcluster_core.text import printable
from flows.cli.failures import print_error
from flows.engine.environment import NOTES
from flows.prefect_.embedded import EmbeddedServer

SERVER = EmbeddedServer()

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."),
]
Update = Annotated[
    bool,
    typer.Option("--update", help="Replace what this run made with other settings."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Go on even if it does not seem to fit here.")]


def path(text: str) -> Path:
    """Return the path that was typed. The help shows this function's name as the type.

    Raises:
        ConfigError: the text is a URL.
    """
    refuse_url(text)
    return expanded(text, Path())


RecipeArgument = Annotated[
    Path, typer.Argument(help="A YAML file, or the name of one in configs/: demo.", parser=path)
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")]
RunFolderOption = Annotated[Path, typer.Option("--run", help="Folder of the run.", parser=path)]
RunArgument = Annotated[
    Path, typer.Argument(help="Folder of the run or sweep, or its name in runs/.", parser=path)
]
EpochOption = Annotated[int | None, typer.Option(min=0, help="Counted from 0.")]


def given(path: Path | None) -> str | None:
    """Return the path of an option as absolute text, or None if the option was left out."""
    return None if path is None else str(path.absolute())


@contextmanager
def prefect_ready() -> Iterator[None]:
    """Run a Prefect server during the block, and keep Prefect's own log lines off the terminal."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    from flows.engine.open_run import ON_TERMINAL  # noqa: PLC0415

    while NOTES:
        print_error(f"deepcluster: {printable(NOTES.pop(0))}")
    if sys.stderr.isatty():
        print("starting Prefect …", file=sys.stderr)  # noqa: T201
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        # Nothing is lost: errors are raised as well, and `main` prints them.
        logging.getLogger(name).propagate = False
    ON_TERMINAL.set(True)
    with SERVER.running():
        yield
