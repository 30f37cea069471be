"""Settle `dataset.deep` for a run whose recipe leaves it open."""

from deepcluster_core.data.sources.downloads import Scratch
from deepcluster_core.errors import ConfigError, SourceError
from stages.runs.compute import scratch_folder
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_own_recipe


def with_deep(recipe: Recipe, folder: RunFolder) -> Recipe:
    """Return a recipe whose `dataset.deep` is set.

    A run keeps what it began with: a run of an earlier version, in which `range` was the default,
    continues with `range`. For a new run the first images decide, or `tile.range`. If the source is
    gone, the recipe is returned as it is.
    """
    if recipe.dataset.deep is not None:
        return recipe
    deep = _begun_with(recipe, folder)
    if deep is None:
        try:
            compute = recipe.compute
            scratch = Scratch(scratch_folder(compute), compute.scratch_bytes)
            deep = recipe.dataset.settled_deep(recipe.dataset.open_source(scratch))
        except SourceError:
            return recipe  # reported where the source is needed
    dataset = recipe.dataset.model_copy(update={"deep": deep})
    return recipe.model_copy(update={"dataset": dataset})


def _begun_with(recipe: Recipe, folder: RunFolder) -> str | None:
    """Return `dataset.deep` of an existing run of the same source; None if there is none."""
    if not folder.config.exists():
        return None
    try:
        before = load_own_recipe(folder.config).dataset
    except ConfigError:
        return None  # reported where the run is opened
    return before.deep if before.source == recipe.dataset.source else None
