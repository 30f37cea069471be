"""The command that writes clusters as maps."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.failures import writes_to
from flows.cli.help import USE, examples
from flows.cli.options import EpochOption, RunArgument, path

rasters = typer.Typer()


@rasters.command(
    rich_help_panel=USE, epilog=examples("deepcluster raster scenes --out clusters.tif")
)
def raster(
    run: RunArgument,
    out: Annotated[
        Path,
        typer.Option(help="A .tif file; a folder if the run has several scenes.", parser=path),
    ],
    epoch: EpochOption = None,
) -> None:
    """Write the clusters of GeoTIFF windows as maps with the coordinates of the scenes."""
    from stages.runs.cluster_map import write_cluster_maps  # noqa: PLC0415
    from stages.runs.locate import run_folder_of  # noqa: PLC0415

    writes_to(out.parent)
    write_cluster_maps(run_folder_of(run), out=out, epoch=epoch)
