"""Commands that show, export or apply what a run has made."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import ending_in
from deepcluster_core.store_urls import typed_location
from flows.cli.help import LOOK, USE, examples
from flows.cli.options import EpochOption, JsonOption, RunArgument, path

SourceArgument = Annotated[
    Path,
    typer.Argument(
        help="Images: a picture, a folder, a list, Parquet files, tar shards or GeoTIFF scenes; "
        "or a URL of them: s3://bucket/pictures.",
        parser=typed_location,
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
    typer.Option(
        help="Layer, for example conv5. If left out, the one that the run clusters, or the "
        "backbone's feature if that is the projection."
    ),
]


class MapMethod(StrEnum):
    """The choices of `report --map`."""

    auto = "auto"
    pca = "pca"
    umap = "umap"
    none = "none"


PAGE_SUFFIXES = (".html", ".htm")
results = typer.Typer()


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
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415
    from stages.runs.sweep_plan import SWEEP  # noqa: PLC0415

    place = run_folder_of(run)
    # An epoch or a cluster belongs to a run; without them, the folder can hold a sweep.
    shows_all = epoch is None and cluster is None
    if shows_all and (Path(place) / SWEEP).exists():
        _show_sweep(Path(place), as_json=as_json)
        return
    folder = existing_run(place)
    if as_json:
        from flows.show.as_json import cluster_as_json, print_json, run_as_json  # noqa: PLC0415

        found = (
            run_as_json(folder, epoch)
            if cluster is None
            else cluster_as_json(folder, epoch, cluster, limit)
        )
        print_json(found)
        return
    from flows.show.run import show_cluster, show_run  # noqa: PLC0415

    if cluster is None:
        show_run(folder, epoch)
    else:
        show_cluster(folder, epoch, cluster, limit)


def _show_sweep(folder: Path, *, as_json: bool) -> None:
    """Show the runs of a sweep side by side."""
    if as_json:
        from flows.show.as_json import print_json, sweep_as_json  # noqa: PLC0415

        print_json(sweep_as_json(folder))
        return
    from flows.show.sweep import show_sweep  # noqa: PLC0415  it imports scipy's statistics

    show_sweep(folder)


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
    from flows.show.page import write_page  # noqa: PLC0415
    from flows.show.page_inputs import CLUSTERS, MapOptions  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415

    if out is not None and out.suffix not in PAGE_SUFFIXES:
        raise ConfigError(
            f"--out {out}: must end in {' or '.join(PAGE_SUFFIXES)}.\n"
            f"  Fix: --out {ending_in(out, PAGE_SUFFIXES[0])}"
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
