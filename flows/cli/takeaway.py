"""Commands that take results away: names, tables, folders of images, choices of images."""

from pathlib import Path
from typing import Annotated

import typer

from deepcluster_core.errors import ConfigError
from flows.cli.help import LOOK, USE, examples
from flows.cli.options import EpochOption, RunArgument, path, run_place

TableOut = Annotated[
    Path | None, typer.Option(help="Write a table (.parquet, .csv) or paths (.txt).", parser=path)
]
takeaway = typer.Typer()


@takeaway.command(
    rich_help_panel=LOOK,
    epilog=examples(
        "deepcluster name demo 17 loops",
        "deepcluster name demo --from earlier",
    ),
)
def name(
    run: RunArgument,
    cluster: Annotated[int | None, typer.Argument(min=0, help="Number of a cluster.")] = None,
    name: Annotated[
        str | None, typer.Argument(help="Its name; an empty one ('') takes it away.")
    ] = None,
    epoch: EpochOption = None,
    other: Annotated[
        Path | None,
        typer.Option("--from", metavar="OTHER", help="A run to take names from.", parser=run_place),
    ] = None,
) -> None:
    """Name a cluster, take the names of another run, or list names and how well they match.

    A name belongs to a cluster of one epoch; other epochs show it at the cluster with the same
    images. The names are in cluster_names.csv of the run.
    """
    from flows.show.cluster_names import give_name, list_names, take_names  # noqa: PLC0415
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415

    if (cluster is None) != (name is None) or (cluster is not None and other is not None):
        raise ConfigError(
            "name: takes a cluster and its name, --from OTHER, or neither.\n"
            "  Fix: deepcluster name RUN 7 'red cars'"
        )
    folder = existing_run(run_folder_of(run))
    if cluster is not None and name is not None:
        give_name(folder, cluster, name, epoch)
    elif other is not None:
        take_names(folder, existing_run(run_folder_of(other)), epoch)
    else:
        list_names(folder, epoch)


@takeaway.command(
    rich_help_panel=USE,
    epilog=examples(
        "deepcluster table demo --out demo.parquet",
        "deepcluster table demo --out demo.csv --columns path,cluster",
    ),
)
def table(  # noqa: PLR0913, PLR0917  each is an option
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="A .parquet, .csv or .h5ad file.", parser=path)],
    epoch: EpochOption = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAME,NAME,…", help="Columns; all if left out.")
    ] = None,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Add the features that were clustered.")
    ] = False,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Add small pictures; .parquet only.")
    ] = False,
    without_features: Annotated[
        bool,
        typer.Option("--without-features", help="Leave out what needs features, if deleted."),
    ] = False,
    layout: Annotated[
        str, typer.Option("--map", metavar="METHOD", help="How x and y are found: pca or umap.")
    ] = "pca",
) -> None:
    """Write one row for each image: cluster, name, distance, neighbours, place on a map, label."""
    from flows.show.takeaway import TableOptions, show_table_written  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415

    options = TableOptions(columns, embedding, thumbnails, without_features, layout)
    show_table_written(run_folder_of(run), out, epoch, options)


@takeaway.command(
    rich_help_panel=USE,
    epilog=examples(
        "deepcluster check demo.parquet",
    ),
)
def check(
    file: Annotated[
        Path, typer.Argument(help="A file of table, assign, embed, pick or others.", parser=path)
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="The run, if it is not where it was.", parser=run_place),
    ] = None,
) -> None:
    """Say whether a file still belongs to its run: exit code 0 if so, 2 if not."""
    from flows.show.belonging import show_belonging  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415

    show_belonging(file, None if run is None else run_folder_of(run))


@takeaway.command(
    rich_help_panel=USE,
    epilog=examples(
        "deepcluster sort demo --out sorted --per-cluster 20",
    ),
)
def sort(  # noqa: PLR0913, PLR0917  each is an option
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The folder to write.", parser=path)],
    epoch: EpochOption = None,
    link: Annotated[
        bool,
        typer.Option("--link", help="Hard links to the images: no room, but the same files."),
    ] = False,
    list_only: Annotated[
        bool, typer.Option("--list", help="A list of paths for each cluster, no images.")
    ] = False,
    per_cluster: Annotated[
        int | None, typer.Option(min=1, help="Largest number of images of a cluster.")
    ] = None,
    farthest: Annotated[
        bool,
        typer.Option(
            "--farthest/--nearest", help="With --per-cluster, which: nearest to the centroid."
        ),
    ] = False,
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Pictures of these bands, from 1, in place of the files: 4,3,2, or a single one.",
        ),
    ] = None,
) -> None:
    """Put copies of the images into a folder for each cluster."""
    from flows.show.takeaway import show_sorted  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415
    from stages.runs.outputs.sorted_images import SortRequest  # noqa: PLC0415

    if link and list_only:
        raise ConfigError("--link, --list: exclude each other.\n  Fix: leave one of them out.")
    if bands is not None and (link or list_only):
        raise ConfigError("--bands: makes pictures.\n  Fix: leave --link and --list out.")
    how = "link" if link else "list" if list_only else "copy"
    show_sorted(
        run_folder_of(run), out, epoch, SortRequest(how, per_cluster, farthest, _bands(bands))
    )


def _bands(text: str | None) -> tuple[int, ...] | None:
    """Return the bands that were typed, such as 4,3,2; None if none were."""
    if text is None:
        return None
    parts = text.replace(" ", "").split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(
            f"--bands {text}: not numbers of bands.\n  Fix: for example --bands 4,3,2"
        )
    return tuple(map(int, parts))


@takeaway.command(
    rich_help_panel=USE,
    epilog=examples(
        "deepcluster pick demo --images 100 --out to-label.csv",
    ),
)
def pick(
    run: RunArgument,
    images: Annotated[int, typer.Option(min=1, help="Number of images to choose.")],
    out: TableOut = None,
    epoch: EpochOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the draw; the run's if left out.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of images to list.")] = 30,
) -> None:
    """Choose images to label next: spread over clusters, at borders, and outliers."""
    from flows.show.takeaway import show_picked  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415

    show_picked(run_folder_of(run), images, out=out, epoch=epoch, seed=seed, limit=limit)


@takeaway.command(
    rich_help_panel=USE,
    epilog=examples(
        "deepcluster duplicates demo",
        "deepcluster duplicates demo --threshold 0.99 --out copies.txt",
    ),
)
def duplicates(
    run: RunArgument,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=-1, max=1, help="Cosine from which images count as equal; found if left out."
        ),
    ] = None,
    out: TableOut = None,
    epoch: EpochOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of groups to list.")] = 10,
) -> None:
    """Find images that are nearly equal; with --out FILE.txt, those that could go."""
    from flows.show.takeaway import show_duplicates  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415

    show_duplicates(run_folder_of(run), threshold=threshold, out=out, epoch=epoch, limit=limit)
