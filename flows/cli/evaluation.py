"""The command `evaluate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from deepcluster_core.errors import ConfigError
from flows.cli.completion import complete_evaluation, complete_run
from flows.cli.failures import writes_to
from flows.cli.help import JUDGE, examples
from flows.cli.model_options import with_options_of
from flows.cli.options import SERVER, EpochOption, JsonOption, given, prefect_ready, run_place
from stages.evaluations.shared.protocol import protocol_names
from stages.runs.evaluation_request import EvaluationRequest

ProtocolOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the protocol, or one of the run such as compute.ranks; repeatable.",
    ),
]
SelectOption = Annotated[
    bool, typer.Option("--select", help="Like --set select=true: do not use the test images.")
]
ResultOption = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Keep the result under this name.")
]
TABLE = "table"
COMPUTE = "compute."
"""What the keys of a recipe that an evaluation takes begin with."""
evaluation = typer.Typer()


@evaluation.command(
    rich_help_panel=JUDGE,
    epilog=examples(
        "deepcluster evaluate knn runs/demo",
        "deepcluster evaluate table1 runs/demo --out table1.md",
    ),
)
@with_options_of(EvaluationRequest, but=("name", "run", "epoch", "overrides", "compute", "result"))
def evaluate(
    name: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(protocol_names())}; or table1 to table5.",
            autocompletion=complete_evaluation,
        ),
    ],
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…",
            help="A run or sweep, or its URL; for tables, runs.",
            parser=run_place,
            autocompletion=complete_run,
        ),
    ],
    epoch: EpochOption = None,
    overrides: ProtocolOverrides = None,
    select: SelectOption = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
    **options: Any,  # noqa: ANN401  fields of the request
) -> None:
    """Evaluate an epoch's network: print a table, and for some evaluations write images.

    Existing results are reused. table1 to table5 compare what runs have measured with the paper's
    numbers; their --out is a file: .csv, .parquet or .md.
    """
    out: Path | None = options["out"]
    if name.startswith(TABLE):
        unread = {"epoch": epoch, "set": overrides, "select": select, "as": result, "json": as_json}
        _check_only_out(name, unread | options)
        _compare_with_paper(name, runs, out)
        return
    run = _only(runs)
    SERVER.begin()  # starts in the background, during the imports
    # Check everything before waiting for Prefect to start.
    assignments = [*(overrides or []), *(["select=true"] if select else [])]
    options |= {"epoch": epoch, "result": result}
    request = _evaluation_request(name, run, assignments, options)
    writes_to(out or run)
    from flows.evaluate import evaluate  # noqa: PLC0415

    with prefect_ready(quiet=as_json):
        folder = Path(cast("str", evaluate(**dict(request))))
        _show_evaluation(folder, result or name, epoch, as_json=as_json)


def _evaluation_request(
    name: str, run: Path, assignments: list[str], options: dict[str, Any]
) -> EvaluationRequest:
    """Return the request of an evaluation.

    Args:
        name: name of the evaluation.
        run: the run.
        assignments: values of `--set`, of keys of the protocol and of the recipe.
        options: further fields of the request.

    Raises:
        ConfigError: a key or value is invalid, or the run does not exist.
    """
    from stages.runs.evaluations import parse_protocol_keys  # noqa: PLC0415
    from stages.runs.folder import RunFolder  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415
    from stages.runs.recipe import parse_overrides  # noqa: PLC0415

    about_machine = [one for one in assignments if one.lstrip().startswith(COMPUTE)]
    about_protocol = [one for one in assignments if one not in about_machine]
    return EvaluationRequest(
        name=name,
        run=RunFolder(Path(run_folder_of(run))).address,
        overrides=parse_protocol_keys(name, about_protocol),
        compute=parse_overrides(about_machine).get("compute"),
        **_as_text(options),
    )


def _show_evaluation(folder: Path, name: str, epoch: int | None, *, as_json: bool) -> None:
    """Print the result of an evaluation."""
    if as_json:
        from flows.show.as_json import evaluation_as_json, print_json  # noqa: PLC0415

        print_json(evaluation_as_json(folder, name, epoch))
        return
    from flows.show.results import show_evaluation  # noqa: PLC0415

    show_evaluation(folder, name, epoch)


def _check_only_out(table: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError if a table of the paper is given options that it does not read."""
    unread = [f"--{name}" for name, value in options.items() if value and name != "out"]
    if options["epoch"] == 0:
        unread.insert(0, "--epoch")
    if unread:
        raise ConfigError(
            f"{', '.join(unread)}: {table} compares what runs have measured last, and reads only "
            f"--out.\n  Fix: --out {table}.csv, .parquet or .md writes it as a file."
        )


def _compare_with_paper(table: str, runs: list[Path], out: Path | None) -> None:
    """Print what runs have measured beside the numbers of a table of the paper."""
    from flows.show.tables import show_table  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415

    existing = [existing_run(run_folder_of(run)) for run in runs]
    show_table(table, existing, out)


def _as_text(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with their paths converted to absolute paths as text."""
    converted = dict(options)
    for name, value in options.items():
        if isinstance(value, Path):
            converted[name] = given(value)
    return converted


def _only(runs: list[Path]) -> Path:
    """Return the only run of a list.

    Raises:
        ConfigError: the list has several runs.
    """
    if len(runs) > 1:
        given_runs = " ".join(map(str, runs))
        raise ConfigError(
            f"{given_runs}: an evaluation takes one run.\n"
            f"  Fix: name one; table1 to table5 take several."
        )
    return runs[0]
