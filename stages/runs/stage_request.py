"""Check a request to run one stage again."""

from collections.abc import Collection
from typing import Literal, cast, get_args

from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local
from deepcluster_core.suggestions import did_you_mean
from stages.runs.epoch import STAGES
from stages.runs.recipe import Recipe

StageName = Literal["index", "extract", "cluster", "train", "score"]
"""The names in STAGES, once more for the type checker and for Prefect's form."""
assert get_args(StageName) == tuple(STAGES)


def check_stage_request(
    stage: str, epoch: int | None, *, changed: bool, out: str | None
) -> StageName:
    """Check a request that does not depend on the run; return the name of the stage.

    Raises:
        ConfigError: the stage is unknown, the epoch is missing or not wanted, or settings are
            changed without a folder of their own for the artifact.
    """
    check_is_local(out or "", "out")
    if stage not in STAGES:
        raise ConfigError(
            f"unknown stage {stage!r}; choose from {', '.join(STAGES)}"
            f"{did_you_mean(stage, STAGES) or '.'}"
        )
    if epoch is None and stage != "index":
        raise ConfigError(f"stage {stage} needs --epoch.\n  Fix: --epoch N, counted from 0.")
    if epoch is not None and stage == "index":
        raise ConfigError("stage index belongs to no epoch.\n  Fix: leave --epoch out.")
    if changed and out is None:
        raise ConfigError(
            "Changed settings in the run's own folder would make it a mixture of two runs.\n"
            "  Fix: give another folder: --out DIR."
        )
    return cast("StageName", stage)


def check_fits(
    recipe: Recipe, stage: StageName, epoch: int | None, changed: Collection[str]
) -> None:
    """Check that the run has the epoch, and that the stage reads the changed settings.

    Args:
        recipe: recipe of the run.
        stage: stage that is to run.
        epoch: epoch of the stage; None for index.
        changed: sections of the recipe with settings that differ from the run's.

    Raises:
        ConfigError: the run does not have the epoch, or the stage does not read a changed section.
    """
    if epoch is not None and epoch >= recipe.num_epochs:
        raise ConfigError(
            f"--epoch {epoch}: the run has epochs 0 to {recipe.num_epochs - 1}.\n"
            f"  Fix: deepcluster run RECIPE --epochs {epoch + 1} continues up to it."
        )
    if stage == "extract" and epoch and recipe.train.has_bank:
        raise ConfigError(
            f"--epoch {epoch}: only epoch 0 extracts features, because train.prototypes.bank is "
            f"on.\n"
            f"  Fix: run train of epoch {epoch - 1}, which computes the embeddings of this one."
        )
    if stage == "train" and not recipe.trains:
        raise ConfigError(
            "stage train: the run has epochs: 0, which trains nothing.\n"
            "  Fix: deepcluster run RECIPE --epochs 1 trains one epoch."
        )
    # Every stage computes on the device, which is not a part of its key.
    reads = {*STAGES[stage].sections, "compute"}
    unread = sorted(set(changed) - reads)
    if unread:
        raise ConfigError(
            f"{', '.join(unread)}: stage {stage} does not read it; it reads "
            f"{', '.join(sorted(reads))}."
        )
