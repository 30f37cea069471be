"""Commands that show, evaluate, export or apply what a run has made."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from deepcluster_core.errors import ConfigError
from flows.cli.failures import writes_to
from flows.cli.help import JUDGE, LOOK, USE, complete_evaluation, complete_run, examples
from flows.cli.model_options import with_options_of
from flows.cli.options import (
    SERVER,
    EpochOption,
    RunArgument,
    given,
    path,
    prefect_ready,
    run_place,
)
from stages.evaluations.shared.protocol import protocol_names
from stages.runs.evaluation_request import EvaluationRequest

SourceArgument = Annotated[
    Path,
    typer.Argument(
        help="Images: a picture, a folder, a list, Parquet files, tar shards or GeoTIFF scenes.",
        parser=path,
    ),
]
KindOption = Annotated[
    str | None,
    typer.Option(help="Kind of source, if it is ambiguous: folder, list, parquet, tar or geotiff."),
]
ImageKeyOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Which picture to use, if tar or Parquet files have several per sample; repeatable."
    ),
]
LayerOption = Annotated[
    str | None,
    typer.Option(help="Layer, for example conv5; the one that the run clusters if left out."),
]

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
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, whose fields the documentation lists.")
]


class MapMethod(StrEnum):
    """The choices of `report --map`."""

    auto = "auto"
    pca = "pca"
    umap = "umap"
    none = "none"


TABLE = "table"
COMPUTE = "compute."
"""What the keys of a recipe that an evaluation takes begin with."""
PAGE_SUFFIXES = (".html", ".htm")
results = typer.Typer()


@results.command(
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
        _check_no_json(name, as_json=as_json)
        _compare_with_paper(name, runs, out)
        return
    run = _only(runs)
    SERVER.begin()  # starts in the background, during the imports
    from stages.runs.evaluations import parse_protocol_keys  # noqa: PLC0415
    from stages.runs.folder import RunFolder  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415
    from stages.runs.recipe import parse_overrides  # noqa: PLC0415

    selected = ["select=true"] if select else []
    assignments = [*(overrides or []), *selected]
    about_machine = [one for one in assignments if one.lstrip().startswith(COMPUTE)]
    about_protocol = [one for one in assignments if one not in about_machine]
    # Check everything before waiting for Prefect to start.
    request = EvaluationRequest(
        name=name,
        run=RunFolder(Path(run_folder_of(run))).address,
        epoch=epoch,
        overrides=parse_protocol_keys(name, about_protocol),
        compute=parse_overrides(about_machine).get("compute"),
        result=result,
        **_as_text(options),
    )
    writes_to(out or run)
    with prefect_ready(quiet=as_json):
        from flows.evaluate import evaluate  # noqa: PLC0415

        folder = Path(cast("str", evaluate(**dict(request))))
        if as_json:
            from flows.show.as_json import evaluation_as_json, print_json  # noqa: PLC0415

            print_json(evaluation_as_json(folder, result or name, epoch))
        else:
            from flows.show.results import show_evaluation  # noqa: PLC0415

            show_evaluation(folder, result or name, epoch)


def _check_no_json(table: str, *, as_json: bool) -> None:
    """Raise ConfigError if a table of the paper is wanted as JSON."""
    if as_json:
        raise ConfigError(
            f"--json: {table} is written as a file.\n  Fix: --out {table}.csv, .parquet or .md"
        )


def _compare_with_paper(table: str, runs: list[Path], out: Path | None) -> None:
    """Print what runs have measured beside the numbers of a table of the paper."""
    from flows.show.tables import show_table  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415

    existing = [existing_run(run_folder_of(run)) for run in runs]
    show_table(table, existing, out)


@results.command(
    rich_help_panel=LOOK,
    epilog=examples("deepcluster show demo", "deepcluster show demo --epoch 3 --cluster 17"),
)
def show(
    run: RunArgument,
    epoch: EpochOption = None,
    cluster: Annotated[
        int | None, typer.Option(min=0, help="Show the images of this cluster; needs --epoch.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of images to list.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show a run, epoch by epoch; or the images of one cluster, nearest to its centroid first."""
    from flows.show.as_json import (  # noqa: PLC0415
        cluster_as_json,
        print_json,
        run_as_json,
        sweep_as_json,
    )
    from flows.show.run import show_cluster, show_run  # noqa: PLC0415
    from flows.show.sweep import show_sweep  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415
    from stages.runs.sweep_plan import SWEEP  # noqa: PLC0415

    place = run_folder_of(run)
    # An epoch or a cluster belongs to a run; without them, the folder can hold a sweep.
    shows_all = epoch is None and cluster is None
    if shows_all and (Path(place) / SWEEP).exists():
        if as_json:
            print_json(sweep_as_json(Path(place)))
        else:
            show_sweep(Path(place))
        return
    folder = existing_run(place)
    if as_json and cluster is None:
        print_json(run_as_json(folder, epoch))
    elif as_json and cluster is not None:
        print_json(cluster_as_json(folder, epoch, cluster, limit))
    elif cluster is None:
        show_run(folder, epoch)
    else:
        show_cluster(folder, epoch, cluster, limit)


@results.command(
    rich_help_panel=LOOK,
    epilog=examples(
        "deepcluster diff demo --from 1 --to 9", "deepcluster diff runs/one runs/other"
    ),
)
def diff(
    first: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, or a label table: its folder or file.")
    ],
    second: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Another one to compare with.")
    ] = None,
    from_epoch: Annotated[int | None, typer.Option("--from", min=0, help="Epoch of RUN.")] = None,
    to_epoch: Annotated[
        int | None, typer.Option("--to", min=0, help="Later epoch of RUN, or epoch of OTHER.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the whole table: .parquet or .csv.", parser=path)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of clusters to list.")] = 30,
) -> None:
    """Show which clusters split, merged or moved: between epochs, runs or label tables."""
    from flows.show.diff import show_diff  # noqa: PLC0415

    show_diff(first, second, from_epoch=from_epoch, to_epoch=to_epoch, out=out, limit=limit)


@results.command(rich_help_panel=LOOK, epilog=examples("deepcluster report demo --clusters 100"))
def report(
    run: RunArgument,
    clusters: Annotated[
        int | None,
        typer.Option(min=1, help="Largest number of clusters in the gallery; 300 if left out."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed for drawing random clusters; the run's if left out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="An .html file elsewhere; the run is then only read.", parser=path),
    ] = None,
    map: Annotated[
        MapMethod,
        typer.Option(
            help="How to place the images on the map. umap takes minutes and needs umap-learn; "
            "auto is pca, up to 100,000 images."
        ),
    ] = MapMethod.auto,
    neighbours: Annotated[
        bool,
        typer.Option(
            "--neighbours",
            help="Look for outliers and near-duplicates among more than 20,000 images, too.",
        ),
    ] = False,
) -> None:
    """Write report.html into a run's folder: a map of the images, clusters, curves, evaluations."""
    from flows.show.image_map import MapOptions  # noqa: PLC0415
    from flows.show.page import CLUSTERS, write_page  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415

    if out is not None and out.suffix not in PAGE_SUFFIXES:
        raise ConfigError(
            f"--out {out}: must end in {' or '.join(PAGE_SUFFIXES)}.\n"
            f"  Fix: --out {out.with_suffix(PAGE_SUFFIXES[0])}"
        )
    folder = existing_run(run_folder_of(run))
    options = MapOptions(method=map.value, neighbours=neighbours)
    page = write_page(folder, clusters=clusters or CLUSTERS, seed=seed, out=out, options=options)
    print(page)  # noqa: T201


@results.command(
    rich_help_panel=USE, epilog=examples("deepcluster assign demo pictures --out assigned.parquet")
)
def assign(
    run: RunArgument,
    source: SourceArgument,
    out: Annotated[Path, typer.Option(help="A .parquet, .csv or .npy file.", parser=path)],
    epoch: EpochOption = None,
    kind: KindOption = None,
    image_key: ImageKeyOption = None,
) -> None:
    """Assign images that the run has never seen to its clusters; write a table."""
    from stages.runs.locate import run_folder_of  # noqa: PLC0415
    from stages.runs.new_images import assign  # noqa: PLC0415

    assign(run_folder_of(run), source, out=out, epoch=epoch, kind=kind, image_key=image_key)


@results.command(
    rich_help_panel=USE, epilog=examples("deepcluster embed demo pictures --out features.parquet")
)
def embed(
    run: RunArgument,
    source: SourceArgument,
    out: Annotated[
        Path, typer.Option(help="A .zarr folder, or a .parquet, .csv or .npy file.", parser=path)
    ],
    epoch: EpochOption = None,
    layer: LayerOption = None,
    kind: KindOption = None,
    image_key: ImageKeyOption = None,
) -> None:
    """Write the features of images that the run has never seen."""
    from stages.runs.locate import run_folder_of  # noqa: PLC0415
    from stages.runs.new_images import embed  # noqa: PLC0415

    embed(
        run_folder_of(run),
        source,
        out=out,
        epoch=epoch,
        layer=layer,
        kind=kind,
        image_key=image_key,
    )


@results.command(
    rich_help_panel=USE, epilog=examples("deepcluster export demo --out backbone.safetensors")
)
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The file to write.", parser=path)],
    format: Annotated[
        str,
        typer.Option(help="safetensors, torchscript, onnx, torch-export, or timm for a folder."),
    ] = "safetensors",
    epoch: EpochOption = None,
    layer: LayerOption = None,
) -> None:
    """Write the backbone as a file that other programs load without this one."""
    from stages.runs.export import export  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415

    export(run_folder_of(run), format=format, out=out, epoch=epoch, layer=layer)


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
