"""The command `deepcluster`. Each command imports the slow modules that it needs by itself."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from deepcluster_core.errors import ConfigError, DeepClusterError
from deepcluster_core.interrupts import SIGNALS
from deepcluster_core.memory import collect_seldom, keep_freed_memory
from deepcluster_core.text import printable_lines, shell_words
from flows.cli.completion import mend_zsh_completion
from flows.cli.evaluation import evaluation
from flows.cli.failures import (
    DEBUG,
    debugging,
    discard_output,
    explained,
    print_error,
    report_unexpected,
    require_working_folder,
    typed_command,
    writes_to,
)
from flows.cli.help import RUN, Grouped, examples
from flows.cli.job_variables import pools
from flows.cli.join import joining
from flows.cli.look import look_command
from flows.cli.options import (
    SERVER,
    EpochOption,
    EpochsOption,
    NotifyOption,
    Overrides,
    RecipeArgument,
    RunFolderOption,
    Update,
    Yes,
    flow_overrides,
    given,
    notifying,
    path,
    prefect_ready,
    run_place,
)
from flows.cli.raster import rasters
from flows.cli.remote import remotes
from flows.cli.results import results
from flows.cli.takeaway import takeaway
from flows.cli.track import tracking
from flows.prefect_.serve import HOST, forget_dead_server

USER_ERROR = 2
UNEXPECTED = 1
NOBODY_READS = 141
"""Exit code that a shell reports for a program whose output is not read any more (SIGPIPE)."""
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")  # before anything imports Prefect


class Stopped(BaseException):
    """Raised on Ctrl-C, SIGTERM (such as preemption) and SIGHUP (a closed terminal).

    It is a BaseException so that typer does not catch it.
    """

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number  # as in a shell: 130, 143 and 129


mend_zsh_completion()
app = typer.Typer(
    cls=Grouped,
    help="DeepCluster (Caron et al. 2018): group features, train on the groups, repeat.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(results)
app.add_typer(evaluation)
app.add_typer(look_command)
app.add_typer(rasters)
app.add_typer(remotes)
app.add_typer(pools)
app.add_typer(tracking)
app.add_typer(takeaway)
app.add_typer(joining)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415

        print("deepcluster", version("deepcluster-pipeline"))  # noqa: T201
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool,
        typer.Option("--debug", help=f"Print the traceback of an error; also {DEBUG}=1."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """DeepCluster (Caron et al. 2018): group features, train on the groups, repeat."""
    if debug:
        os.environ[DEBUG] = "1"  # an environment variable, so that subprocesses inherit it


class Template(StrEnum):
    """The choices of `init --like`."""

    v1 = "own-images"
    v2 = "own-images-v2"


@app.command(
    rich_help_panel=RUN,
    epilog=examples("deepcluster init mine", "deepcluster init mine --like own-images-v2"),
)
def init(
    name: Annotated[str, typer.Argument(help="Writes NAME.yaml and NAME.schema.json.")],
    like: Annotated[
        Template, typer.Option(help="The recipe to copy; -v2 is DeepCluster-v2.")
    ] = Template.v1,
) -> None:
    """Write a recipe to start from, with comments, and a schema for editors."""
    from stages.runs.new_recipe import write_new_recipe  # noqa: PLC0415

    recipe = shell_words(write_new_recipe(path(name), like))
    print(f"Set dataset.source in {recipe}, then: deepcluster run {recipe}")  # noqa: T201


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        "deepcluster run demo",
        "deepcluster run mine.yaml --epochs 20 --set cluster.k=100",
        "deepcluster run mine.yaml --dry-run",
    ),
)
def run(  # noqa: PLR0913, PLR0917  each is an option
    recipe: RecipeArgument,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Folder, or URL such as s3://bucket/runs/demo; runs/<name of the recipe> if left "
            "out.",
            parser=run_place,
        ),
    ] = None,
    epochs: EpochsOption = None,
    overrides: Overrides = None,
    update: Update = False,
    yes: Yes = False,
    notify: NotifyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run, and why; make nothing.")
    ] = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="With --dry-run: measure the time by ten training steps."),
    ] = False,
) -> None:
    """Run a recipe. Existing artifacts are reused."""
    if probe and not dry_run:
        raise ConfigError(
            "--probe: measures what --dry-run predicts, and makes no run.\n"
            "  Fix: add --dry-run, or leave --probe out."
        )
    if not dry_run:
        SERVER.begin()  # starts in the background, during the imports
    from deepcluster_core.artifacts.mirrored import mirror_of  # noqa: PLC0415
    from flows.show.farewell import farewell  # noqa: PLC0415
    from stages.runs.access import check_run_writable  # noqa: PLC0415
    from stages.runs.recipe import parse_overrides  # noqa: PLC0415
    from stages.runs.run_images import clustered_by  # noqa: PLC0415
    from stages.runs.settings_changes import check_settings  # noqa: PLC0415
    from stages.runs.settled import as_begun, begun_with, resolve  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    # Check everything that can be checked now, before waiting for Prefect to start.
    resolved, folder = resolve(str(recipe), given(run), epochs, changes)
    # The flow checks again, which would ask an object store again.
    if dry_run or mirror_of(folder.root) is None:
        check_settings(folder, as_begun(resolved, begun_with(folder)), update=update)
    if dry_run:
        from flows.show.forecast import show_forecast  # noqa: PLC0415

        show_forecast(folder, resolved, yes=yes, probes=probe)
        return
    check_run_writable(folder)
    start = time.monotonic()
    writes_to(folder.root)
    from flows.epoch_loop import deepcluster  # noqa: PLC0415

    with notifying(notify), prefect_ready():
        deepcluster(
            str(recipe),
            run=given(Path(folder.address)),
            epochs=epochs,
            overrides=flow_overrides(changes),
            update=update,
            yes=yes,
        )
    seconds = time.monotonic() - start
    epochs = resolved.epochs
    features = folder.artifact(*clustered_by(resolved, max(0, epochs - 1)))
    print(farewell(folder, epochs=epochs, features=features, seconds=seconds))  # noqa: T201


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        "deepcluster stage cluster --run runs/demo --epoch 3 --set cluster.k=50 --out runs/k50"
    ),
)
def stage(
    name: Annotated[str, typer.Argument(help="One of index, extract, cluster, train and score.")],
    run: RunFolderOption,
    epoch: EpochOption = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Another folder for the artifact.", parser=path)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run even if the artifact exists.")
    ] = False,
) -> None:
    """Run one stage of one epoch again, in the run or, with --out, elsewhere."""
    SERVER.begin()  # starts in the background, during the imports
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415
    from stages.runs.recipe import parse_overrides  # noqa: PLC0415
    from stages.runs.settled import resolve  # noqa: PLC0415
    from stages.runs.stage_request import check_stage_request  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    folder = existing_run(run_folder_of(run))
    # Check everything that can be checked now, before waiting for Prefect to start.
    resolve(str(folder.config), str(folder.root), None, changes)
    stage_name = check_stage_request(name, epoch, changed=bool(changes), out=given(out))
    writes_to(folder.root if out is None else None)
    from flows.stage_rerun import rerun  # noqa: PLC0415

    with prefect_ready():
        rerun(
            stage_name,
            run=folder.address,
            epoch=epoch,
            overrides=flow_overrides(changes),
            out=given(out),
            force=force,
        )


@app.command(
    rich_help_panel=RUN,
    epilog=examples(
        "deepcluster sweep demo --k 10,50,100", "deepcluster sweep demo --over train.lr=0.01,0.05"
    ),
)
def sweep(  # noqa: PLR0913, PLR0917  each is an option
    recipe: RecipeArgument,
    ks: Annotated[
        str | None,
        typer.Option("--k", metavar="K,K,…", help="All k to compare; existing runs are reused."),
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(
            "--over",
            metavar="KEY=V,V,…",
            help="Compare values of another key of the recipe, such as train.lr=0.01,0.05.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Folder or URL; runs/<name of the recipe>-k, or -KEY, if left out.",
            parser=run_place,
        ),
    ] = None,
    epochs: EpochsOption = None,
    overrides: Overrides = None,
    update: Update = False,
    yes: Yes = False,
    notify: NotifyOption = None,
) -> None:
    """Run a recipe for several k, or values of a key, and compare: one table, one picture."""
    from flows.show.sweep import show_sweep  # noqa: PLC0415
    from stages.runs.recipe import parse_overrides  # noqa: PLC0415
    from stages.runs.sweep_options import parse_varied  # noqa: PLC0415
    from stages.runs.sweep_plan import check_sweep_writable, plan  # noqa: PLC0415

    changes = parse_overrides(overrides or [])
    key, values = parse_varied(ks, over)
    planned = plan(str(recipe), values, given(run), epochs, changes, key)
    writes_to(planned.root.root)
    check_sweep_writable(planned)
    from flows.sweep import sweep  # noqa: PLC0415

    with notifying(notify), prefect_ready():
        sweep(
            values if over is None else None,
            str(recipe),
            run=given(Path(planned.root.address)),
            epochs=epochs,
            overrides=flow_overrides(changes),
            update=update,
            yes=yes,
            over=None if over is None else {key: values},
        )
    show_sweep(planned.root.root)


@app.command(rich_help_panel=RUN, epilog=examples("deepcluster serve --port 4200"))
def serve(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = HOST,
) -> None:
    """Start a Prefect server on 127.0.0.1, a worker, and register the deployments."""
    from flows.prefect_.serve import serve  # noqa: PLC0415

    serve(port, host)


def main() -> None:
    """Run the command.

    An error that the person can fix is reported with its fix and exit code 2, any other error in
    one line with exit code 1. No traceback is printed for either.
    """
    try:
        with _stoppable():
            _run_command()
    except DeepClusterError as error:
        _exit_with_user_error(error)
    except Stopped as stopped:
        program, *words = typed_command()
        command = shell_words(Path(program).name, *words)
        print_error(f"\ndeepcluster: stopped. Go on from here with\n  {command}")
        sys.exit(stopped.exit_code)
    except BrokenPipeError:
        discard_output()
        sys.exit(NOBODY_READS)
    except Exception as error:  # a bug of ours, or an error of a library
        cause = explained(error)
        if cause is not None and not debugging():
            _exit_with_user_error(cause)
        report_unexpected(error)
        discard_output()
        sys.exit(UNEXPECTED)
    finally:
        SERVER.end()


def _run_command() -> None:
    require_working_folder()
    collect_seldom()
    keep_freed_memory()
    forget_dead_server()
    try:
        app()
    finally:
        sys.stdout.flush()  # an error here is handled; one while Python shuts down is not


def _exit_with_user_error(error: DeepClusterError) -> NoReturn:
    """Print an error that the person can fix, and exit."""
    print_error(f"deepcluster: {printable_lines(str(error))}")
    sys.exit(USER_ERROR)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Raise `Stopped` on a signal to stop inside the block.

    A signal that is ignored stays ignored, as `nohup` intends.
    """
    # The handlers of all signals that are not ignored, to put back at the end.
    handlers: dict[int, Any] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN:
            handlers[number] = handler
    for number in handlers:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)
