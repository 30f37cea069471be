"""The command `deepcluster`. What is slow to import is imported by the command that needs it."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from deepcluster_core.errors import DeepClusterError
from flows.cli_results import results
from flows.cli_shared import (
    SERVER,
    EpochOption,
    Overrides,
    RunFolderOption,
    Update,
    Yes,
    given,
    prefect_ready,
)
from flows.embedded import collect_seldom
from flows.serve import HOST, forget_dead_server
from flows.terminal import printable_lines

USER_ERROR = 2
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")  # before anything imports Prefect


class Stopped(BaseException):
    """Ctrl-C, or SIGTERM from a machine that is taken away. Not typer's to deal with."""

    def __init__(self, number: int) -> None:
        """Keep the signal's number."""
        self.exit_code = 128 + number  # the shell's: 130 and 143


app = typer.Typer(
    help="DeepCluster (Caron et al. 2018): group features, train on the groups, repeat.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(results)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, for example configs/demo.yaml.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder; runs/<name of the recipe> if left out.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    overrides: Overrides = None,
    update: Update = False,
    yes: Yes = False,
) -> None:
    """Run a recipe. What is there already is not made again."""
    SERVER.begin()  # beside the imports
    from flows.access import refuse_unwritable_run  # noqa: PLC0415
    from flows.prepare import refuse_other_settings, resolve  # noqa: PLC0415
    from flows.show import farewell  # noqa: PLC0415
    from stages.recipe import RecipeOverrides, parse_overrides  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    # Whatever can be refused is refused before Prefect takes its time.
    resolved, folder = resolve(str(recipe), given(run), epochs, changes)
    refuse_other_settings(folder, resolved, update=update)
    refuse_unwritable_run(folder)
    start = time.monotonic()
    with prefect_ready():
        from flows.epoch_loop import deepcluster  # noqa: PLC0415

        deepcluster(
            str(recipe),
            run=given(folder.root),
            epochs=epochs,
            overrides=RecipeOverrides.model_validate(changes) if changes else None,
            update=update,
            yes=yes,
        )
    print(farewell(folder, epochs=resolved.epochs, seconds=time.monotonic() - start))  # noqa: T201


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="index, extract, cluster, train or score.")],
    run: RunFolderOption,
    epoch: EpochOption = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Another folder for the artifact.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even if it is there.")] = False,
) -> None:
    """Run one stage of one epoch again, in the run or, with --out, elsewhere."""
    SERVER.begin()
    from flows.prepare import existing_run, resolve, typed_run  # noqa: PLC0415
    from stages.recipe import RecipeOverrides, parse_overrides  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    folder = existing_run(typed_run(run))
    resolve(str(folder.config), str(folder.root), None, changes)
    with prefect_ready():
        from flows.stage_rerun import check, rerun  # noqa: PLC0415

        rerun(
            check(name, epoch, changed=bool(changes), out=given(out)),
            run=str(folder.root),
            epoch=epoch,
            overrides=RecipeOverrides.model_validate(changes) if changes else None,
            out=given(out),
            force=force,
        )


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, for example configs/demo.yaml.")],
    ks: Annotated[
        str, typer.Option("--k", metavar="K,K,…", help="All k to compare; those there are Cached.")
    ],
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder; runs/<name of the recipe>-k if left out.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    overrides: Overrides = None,
    update: Update = False,
    yes: Yes = False,
) -> None:
    """Run a recipe for several k, and compare: a run for each, one table, one picture."""
    from flows.show import show_sweep  # noqa: PLC0415
    from flows.sweep_plan import parse_ks, plan, refuse_unwritable_sweep  # noqa: PLC0415
    from stages.recipe import RecipeOverrides, parse_overrides  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    planned = plan(str(recipe), parse_ks(ks), given(run), epochs, changes)
    refuse_unwritable_sweep(planned)
    with prefect_ready():
        from flows.sweep import sweep  # noqa: PLC0415

        sweep(
            [member.k for member in planned.members],
            str(recipe),
            run=given(planned.root.root),
            epochs=epochs,
            overrides=RecipeOverrides.model_validate(changes) if changes else None,
            update=update,
            yes=yes,
        )
    show_sweep(planned.root.root)


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = HOST,
) -> None:
    """Start a Prefect server on 127.0.0.1, a worker, and register the deployments."""
    from flows.serve import serve  # noqa: PLC0415

    serve(port, host)


def main() -> None:
    """Run the command; a person's mistake exits with 2 and no traceback."""
    collect_seldom()
    forget_dead_server()
    try:
        with _stoppable():
            app()
    except DeepClusterError as error:
        print(f"deepcluster: {printable_lines(str(error))}", file=sys.stderr)  # noqa: T201
        sys.exit(USER_ERROR)
    except Stopped as stopped:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        print(f"\ndeepcluster: stopped. Go on from here with\n  {command}", file=sys.stderr)  # noqa: T201
        sys.exit(stopped.exit_code)
    finally:
        SERVER.end()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM raise `Stopped` in the block, but for who ignores them."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)
