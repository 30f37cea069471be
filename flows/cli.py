"""The command `deepcluster`. What is slow to import is imported by the command that needs it."""

import logging
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
from flows.embedded import EmbeddedServer, collect_seldom
from flows.serve import HOST, forget_dead_server
from flows.terminal import printable_lines

USER_ERROR = 2
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")  # before anything imports Prefect
SERVER = EmbeddedServer()


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

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."),
]
Update = Annotated[
    bool,
    typer.Option("--update", help="Replace what this run made with other settings."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Go on even if it does not seem to fit here.")]
RunFolderOption = Annotated[Path, typer.Option("--run", help="Folder of the run.")]
EpochOption = Annotated[int | None, typer.Option(min=0, help="Counted from 0.")]


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
    from flows.prepare import refuse_other_settings, resolve  # noqa: PLC0415
    from flows.show import farewell  # noqa: PLC0415
    from stages.recipe import RecipeOverrides, parse_overrides  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    # Whatever can be refused is refused before Prefect takes its time.
    resolved, folder = resolve(str(recipe), _given(run), epochs, changes)
    refuse_other_settings(folder, resolved, update=update)
    start = time.monotonic()
    with _prefect():
        from flows.epoch_loop import deepcluster  # noqa: PLC0415

        deepcluster(
            str(recipe),
            run=_given(folder.root),
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
    from flows.prepare import existing_run, resolve  # noqa: PLC0415
    from stages.recipe import RecipeOverrides, parse_overrides  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    folder = existing_run(str(run.resolve()))
    resolve(str(folder.config), str(folder.root), None, changes)
    with _prefect():
        from flows.stage_rerun import check, rerun  # noqa: PLC0415

        rerun(
            check(name, epoch, changed=bool(changes), out=_given(out)),
            run=str(folder.root),
            epoch=epoch,
            overrides=RecipeOverrides.model_validate(changes) if changes else None,
            out=_given(out),
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
    from flows.sweep_plan import parse_ks, plan  # noqa: PLC0415
    from stages.recipe import RecipeOverrides, parse_overrides  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    planned = plan(str(recipe), parse_ks(ks), _given(run), epochs, changes)
    with _prefect():
        from flows.sweep import sweep  # noqa: PLC0415

        sweep(
            [member.k for member in planned.members],
            str(recipe),
            run=_given(planned.root.root),
            epochs=epochs,
            overrides=RecipeOverrides.model_validate(changes) if changes else None,
            update=update,
            yes=yes,
        )
    show_sweep(planned.root.root)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="Folder of the run, or of a sweep.")],
    epoch: EpochOption = None,
    cluster: Annotated[int | None, typer.Option(min=0, help="Needs --epoch.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Images listed at most.")] = 50,
) -> None:
    """Show a run, epoch by epoch; or the images of one cluster, nearest to its centroid first."""
    from flows.prepare import existing_run  # noqa: PLC0415
    from flows.show import show_cluster, show_run, show_sweep  # noqa: PLC0415
    from flows.sweep_plan import SWEEP  # noqa: PLC0415

    if epoch is None and cluster is None and (run / SWEEP).exists():
        show_sweep(run)
        return
    folder = existing_run(str(run.absolute()))
    if cluster is None:
        show_run(folder, epoch)
    else:
        show_cluster(folder, epoch, cluster, limit)


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


def _given(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


@contextmanager
def _prefect() -> Iterator[None]:
    """Have Prefect ready for flows, with a server, and keep its own lines off the terminal."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    from flows.prepare import ON_TERMINAL  # noqa: PLC0415

    if sys.stderr.isatty():
        print("starting Prefect …", file=sys.stderr)  # noqa: T201
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False  # errors are raised, and printed by `main`
    ON_TERMINAL.set(True)
    with SERVER.running():
        yield
