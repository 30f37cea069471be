"""The command that prints the memory of a run for Prefect's work pools."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.completion import complete_recipe
from flows.cli.help import RUN, examples
from flows.cli.options import Overrides, run_place
from stages.runs.job_variables import PoolType

pools = typer.Typer()


@pools.command(
    rich_help_panel=RUN,
    epilog=examples(
        "deepcluster job-variables demo --pool-type docker",
        "deepcluster job-variables s3://bucket/runs/demo --pool-type docker",
        "deepcluster job-variables mine.yaml --pool-type kubernetes --images 1281167 --gpus 8",
    ),
)
def job_variables(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A YAML file, or the name of one in configs/; or the folder or URL of a run.",
            parser=run_place,
            autocompletion=complete_recipe,
        ),
    ],
    pool_type: Annotated[PoolType, typer.Option(help="Type of the work pool.")],
    overrides: Overrides = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Number of images; counted if left out.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of the container.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, as for prefect.yaml.")
    ] = False,
) -> None:
    """Print the memory that a run needs, as job variables of a Prefect work pool.

    The text fits into the command that starts a deployment: prefect deployment run …
    $(deepcluster job-variables …). The estimate is rough, and rather too high.
    """
    from stages.runs.job_variables import job_variables as found_for  # noqa: PLC0415
    from stages.runs.job_variables import recipe_and_count  # noqa: PLC0415
    from stages.runs.recipe import parse_overrides  # noqa: PLC0415

    loaded, packed = recipe_and_count(str(recipe), parse_overrides(overrides or []))
    found = found_for(loaded, pool_type, num_images=images or packed, num_gpus=gpus)
    if as_json:
        print(json.dumps(found))  # noqa: T201
        return
    words = (f"--job-variable {name}={value}" for name, value in found.items())
    print(" ".join(words))  # noqa: T201
