"""Settle what a recipe leaves open, once for each run: `dataset.deep` and `precision: auto`."""

from deepcluster_core.config import Precision
from deepcluster_core.data.sources.downloads import Scratch
from deepcluster_core.errors import ConfigError, SourceError
from stages.runs.compute import scratch_folder
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_own_recipe


def settled(recipe: Recipe, folder: RunFolder) -> Recipe:
    """Return the recipe of a run with the settings that the first machine and images decide.

    A run keeps what it began with, also when it goes on on another machine.

    Args:
        recipe: the recipe as it was given.
        folder: the run, which need not exist yet.

    Raises:
        ConfigError: the requested device is not available.
    """
    before = begun_with(folder)
    return _with_precision(_with_deep(recipe, before), before)


def _with_deep(recipe: Recipe, before: Recipe | None) -> Recipe:
    """Return a recipe whose `dataset.deep` is set.

    A run of an earlier version, in which `range` was the default, continues with `range`. For a new
    run the first images decide, or `tile.range`. If the source is gone, the recipe is returned as
    it is.
    """
    if recipe.dataset.deep is not None:
        return recipe
    deep = None
    if before is not None and before.dataset.source == recipe.dataset.source:
        deep = before.dataset.deep
    if deep is None:
        try:
            compute = recipe.compute
            scratch = Scratch(scratch_folder(compute), compute.scratch_bytes)
            deep = recipe.dataset.settled_deep(recipe.dataset.open_source(scratch))
        except SourceError:
            return recipe  # reported where the source is needed
    dataset = recipe.dataset.model_copy(update={"deep": deep})
    return recipe.model_copy(update={"dataset": dataset})


def _with_precision(recipe: Recipe, before: Recipe | None) -> Recipe:
    """Return a recipe with the number formats in which its network computes fastest here.

    A run of an earlier version, which kept `auto`, continues with `auto`.
    """
    extract, train = recipe.extract, recipe.train
    if "auto" not in (extract.precision, train.precision):
        return recipe
    if before is not None:
        in_extract, in_train = before.extract.precision, before.train.precision
    else:
        in_extract = in_train = _fastest(recipe)
    if extract.precision == "auto":
        extract = extract.model_copy(update={"precision": in_extract})
    if train.precision == "auto":
        train = train.model_copy(update={"precision": in_train})
    return recipe.model_copy(update={"extract": extract, "train": train})


def _fastest(recipe: Recipe) -> Precision:
    # Imported here because they import torch, which a run that has begun does not need for this.
    from deepcluster_core.precision import faster_precision
    from stages.runs.machine import usable_device

    return faster_precision(usable_device(recipe.compute.device))


def begun_with(folder: RunFolder) -> Recipe | None:
    """Return the recipe that an existing run began with; None for a new run."""
    if not folder.config.exists():
        return None
    try:
        return load_own_recipe(folder.config)
    except ConfigError:
        return None  # reported where the run is opened
