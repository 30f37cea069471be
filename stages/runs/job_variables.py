"""How much memory a container of a Prefect work pool needs for a run, in the words of its pool."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from deepcluster_core.artifacts.manifest import has_manifest, read_manifest
from deepcluster_core.errors import ConfigError
from stages.runs.folder import RunFolder
from stages.runs.remote_runs import url_of

if TYPE_CHECKING:
    from stages.runs.recipe import Recipe

PoolType = Literal["docker", "kubernetes"]


def _of_docker(memory_gib: int, cores: int | None) -> dict[str, str]:
    assert cores is None or cores > 0  # Docker's pool has no variable for cores
    return {"mem_limit": f"{memory_gib}g"}


def _of_kubernetes(memory_gib: int, cores: int | None) -> dict[str, str]:
    memory = f"{memory_gib}Gi"
    # With the same request and limit, a node promises what the run may take.
    # A plain number of cores would reach Prefect as a number, where its template wants a text.
    variables = {"memory_request": memory, "memory_limit": memory}
    return variables if cores is None else {**variables, "cpu_request": f"{1000 * cores}m"}


POOLS: Mapping[PoolType, Callable[[int, int | None], dict[str, str]]] = {
    "docker": _of_docker,
    "kubernetes": _of_kubernetes,
}
"""Types of work pools -> the variables of their base job template."""


def recipe_and_count(place: str, overrides: Mapping[str, Any]) -> tuple["Recipe", int | None]:
    """Return a recipe, and the number of its images if they are packed already.

    Args:
        place: a recipe, by its file or name; or a run, by its folder or URL.
        overrides: nested values that replace those of the recipe.

    Raises:
        ConfigError: the recipe or run does not exist, or the recipe is invalid.
        StoreError: the object store of the run is not available.
    """
    from stages.runs.locate import existing_run, run_folder_of  # noqa: PLC0415
    from stages.runs.recipe import (  # noqa: PLC0415
        changed_recipe,
        load_own_recipe,
        load_recipe,
        recipe_file,
    )

    path = recipe_file(place)
    if url_of(place) is None and not RunFolder(path).config.exists():
        return load_recipe(path, overrides), None
    folder = existing_run(run_folder_of(path))
    recipe = changed_recipe(load_own_recipe(folder.config), overrides)
    images = folder.images(recipe.images)
    # Overrides may name other images, or fewer.
    if "dataset" in overrides or not has_manifest(images):
        return recipe, None
    return recipe, read_manifest(images).rows


def job_variables(
    recipe: "Recipe", pool: PoolType, *, num_images: int | None = None, num_gpus: int = 0
) -> dict[str, str]:
    """Return the job variables with which a pool starts a container that is large enough.

    Args:
        recipe: the recipe of the run.
        pool: type of the work pool.
        num_images: number of images; None to count those of the source.
        num_gpus: GPUs of the container, each of which has a rank; 0 for a run on CPUs.

    Raises:
        ConfigError: only indexing could count the images.
        SourceError: the source cannot be found.
        FeatureError: there are too few images for the recipe.
    """
    # Imported here because every command needs `PoolType`, and none of the stages behind this.
    from stages.runs.estimate import GIB, PROCESS_BYTES, needs_of  # noqa: PLC0415

    num_images = num_images or recipe.dataset.count(recipe.dataset.open_source())
    if num_images is None:
        raise ConfigError(
            f"{recipe.dataset.source}: its images are counted only when they are packed.\n"
            f"  Fix: say about how many there are: --images 1281167"
        )
    ranks = recipe.compute.ranks
    num_ranks = max(1, num_gpus) if ranks == "auto" else ranks
    device = "cuda" if num_gpus else "cpu"
    needs = needs_of(recipe, num_images=num_images, device=device, num_ranks=num_ranks)
    # With several ranks, the run itself is one more process.
    memory = needs.memory * num_ranks + PROCESS_BYTES * (num_ranks > 1)
    threads = recipe.compute.threads
    cores = None if threads is None else threads * num_ranks
    return POOLS[pool](math.ceil(memory / GIB), cores)
