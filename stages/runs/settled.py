"""From what a person typed to a recipe that leaves nothing open.

`resolve` reads the recipe, finds the folder of its run, and checks that the keys of the recipe fit
together. `settled` opens the source, and settles once what the recipe leaves open: `dataset.deep`
and `precision: auto`, from the images, the machine and what the run began with. A run keeps what it
began with, also when it goes on on another machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.config import Precision
from deepcluster_core.data.sources import Source
from deepcluster_core.errors import ConfigError, SourceError
from stages.runs.conflicts import check_conflicts
from stages.runs.folder import RunFolder
from stages.runs.locate import run_path
from stages.runs.recipe import Recipe, load_own_recipe, read_recipe
from stages.score import score


def resolve(
    recipe: str, run: str | None, epochs: int | None, overrides: Mapping[str, Any]
) -> tuple[Recipe, RunFolder]:
    """Return the recipe with all overrides applied, and the folder of the run.

    Args:
        recipe: path of a YAML file, or the name of one in `configs/`.
        run: a folder, a name for one under `runs/`, or a URL; None for the recipe's name.
        epochs: number of epochs; None for the recipe's.
        overrides: nested keys of the recipe.

    Raises:
        ConfigError: the recipe is invalid, or the path of the run is a file.
    """
    changes = dict(overrides)
    if epochs is not None:
        changes["epochs"] = epochs
    path, read = read_recipe(recipe, changes)
    # A run is named after its recipe, unless a person names it.
    root = run_path(run or path.stem, read.compute)
    if root.exists() and not root.is_dir():
        raise ConfigError(
            f"{root}: is a file, but a run is a folder.\n  Fix: choose another --run."
        )
    folder = RunFolder(root)
    # The recipe of a finished run was checked before, which takes long; only what people see may
    # be new.
    begun = begun_with(folder)
    was_checked = is_finished(folder, read, begun)
    check_conflicts(read, name=str(path), only_shown=was_checked, begun=begun)
    return read, folder


@dataclass(frozen=True)
class Settled:
    """A recipe that leaves nothing open, and what was found out about its images."""

    recipe: Recipe
    source_fingerprint: str
    """Digest of the files of the source; decides whether they are indexed again."""
    num_images: int | None
    """Number of images; None as long as only indexing the source can find it."""
    is_finished: bool
    """Whether everything was made before, so that probably no stage will run."""


def settled(recipe: Recipe, folder: RunFolder, *, inform: Callable[[str], None]) -> Settled:
    """Settle the recipe of a run. Opens its source, once.

    If the source is gone but its images were packed, the run continues with the packed images.

    Args:
        recipe: the recipe as it was given.
        folder: the run, which need not exist yet.
        inform: called with a sentence if the source is gone.

    Raises:
        ConfigError: the requested device is not available.
        SourceError: the source cannot be found, and its images were not packed before.
    """
    begun = begun_with(folder)
    recipe = as_begun(recipe, begun)
    if begun is None:
        recipe = _for_this_machine(recipe)
    images = folder.images(recipe.images)
    try:
        source = recipe.dataset.open_source(recipe.download_scratch)
        recipe = _for_these_images(recipe, source)
        fingerprint = source.fingerprint()
        num_images = recipe.dataset.count(source)
        # Those of a tar file are counted when they are packed.
        if num_images is None and _are_indexed_from(images, fingerprint):
            num_images = read_manifest(images).rows
    except SourceError as error:
        fingerprint, num_images = _packed_before(recipe, images, error)
        is_denied = isinstance(error.__cause__, PermissionError)
        why = "cannot be read by you" if is_denied else "is gone"
        inform(f"{recipe.dataset.source} {why}; continuing with the images in {images}")
    is_done = is_finished(folder, recipe, begun) and _are_indexed_from(images, fingerprint)
    return Settled(recipe, fingerprint, num_images, is_done)


def begun_with(folder: RunFolder) -> Recipe | None:
    """Return the recipe that an existing run began with; None for a new run."""
    if not folder.config.exists():
        return None
    try:
        return load_own_recipe(folder.config)
    except ConfigError:
        return None  # reported where the run is opened


def as_begun(recipe: Recipe, begun: Recipe | None) -> Recipe:
    """Return a recipe with the settings that it leaves open, and its run began with.

    That of a new run stays as it is.

    A run of an earlier version, which kept `precision: auto` and in which `range` was the default
    of `dataset.deep`, continues with these. Images of another source are looked at again.
    """
    if begun is None:
        return recipe
    dataset = recipe.dataset
    if dataset.deep is None and dataset.source == begun.dataset.source:
        dataset = dataset.model_copy(update={"deep": begun.dataset.deep})
        recipe = recipe.model_copy(update={"dataset": dataset})
    return _with_precision(recipe, begun.extract.precision, begun.train.precision)


def is_finished(folder: RunFolder, recipe: Recipe, begun: Recipe | None) -> bool:
    """Return whether a run has scored its last epoch with this recipe, whatever `report` is.

    Such a recipe was checked before that, and the run needs nothing more from this machine. What
    only prepares work can then be left out: building the network for its sizes, choosing a device,
    comparing needs with what is free. They import torch, which takes longer than all the rest.

    The artifacts are still looked up one by one. If one of them has been damaged or deleted, it is
    made again, and whatever is wrong with this machine is reported by then.
    """
    if begun is None:
        return False
    # People may see the images in another way than before.
    if as_begun(recipe, begun).model_copy(update={"report": begun.report}) != begun:
        return False
    condition, _ = inspect(folder.artifact(score.kind, recipe.num_epochs - 1))
    return condition is Condition.WHOLE


def _for_this_machine(recipe: Recipe) -> Recipe:
    """Return a recipe with the number formats in which its network computes fastest here."""
    if "auto" not in (recipe.extract.precision, recipe.train.precision):
        return recipe
    # Imported here because they import torch, which a run that has begun does not need for this.
    from deepcluster_core.precision import faster_precision
    from stages.runs.machine import usable_device

    fastest = faster_precision(usable_device(recipe.compute.device))
    return _with_precision(recipe, fastest, fastest)


def _for_these_images(recipe: Recipe, source: Source) -> Recipe:
    """Return a recipe whose `dataset.deep` suits the first images, or `tile.range`."""
    deep = recipe.dataset.settled_deep(source)
    dataset = recipe.dataset.model_copy(update={"deep": deep})
    return recipe.model_copy(update={"dataset": dataset})


def _with_precision(recipe: Recipe, in_extract: Precision, in_train: Precision) -> Recipe:
    """Return a recipe with these number formats where it has `auto`."""
    extract, train = recipe.extract, recipe.train
    if extract.precision == "auto":
        extract = extract.model_copy(update={"precision": in_extract})
    if train.precision == "auto":
        train = train.model_copy(update={"precision": in_train})
    return recipe.model_copy(update={"extract": extract, "train": train})


def _packed_before(recipe: Recipe, images: Path, error: SourceError) -> tuple[str, int]:
    """Return the fingerprint and number of images that were packed before their source was gone.

    Raises:
        SourceError: the error given, because there are none.
    """
    condition, _ = inspect(images)
    # With encoding none, nothing was packed: every epoch reads the source itself.
    if condition is not Condition.WHOLE or recipe.dataset.encoding == "none":
        raise error
    manifest = read_manifest(images)
    if manifest.config["dataset"]["source"] != str(recipe.dataset.source):
        raise error  # these are the images of a different source
    return manifest.inputs["source"], manifest.rows


def _are_indexed_from(images: Path, fingerprint: str) -> bool:
    """Return whether the images were indexed from a source with this fingerprint."""
    condition, _ = inspect(images)
    if condition is not Condition.WHOLE:
        return False
    return read_manifest(images).inputs["source"] == fingerprint
