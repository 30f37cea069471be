"""Recognise a finished run, so that running it again starts fast."""

from deepcluster_core.artifacts.manifest import Condition, inspect
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe
from stages.runs.settled import begun_with, settled
from stages.score import score


def is_finished(folder: RunFolder, recipe: Recipe) -> bool:
    """Return whether a run has scored its last epoch with this recipe, whatever `report` is.

    Such a recipe was checked before that, and the run needs nothing more from this machine. What
    only prepares work can then be left out: building the network for its sizes, choosing a device,
    comparing needs with what is free. They import torch, which takes longer than all the rest.

    The artifacts are still looked up one by one. If one of them has been damaged or deleted, it is
    made again, and whatever is wrong with this machine is reported by then.
    """
    before = begun_with(folder)
    if before is None:
        return False
    # People may see the images in another way than before.
    if settled(recipe, folder).model_copy(update={"report": before.report}) != before:
        return False
    condition, _ = inspect(folder.artifact(score.kind, recipe.num_epochs - 1))
    return condition is Condition.WHOLE
