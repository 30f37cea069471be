"""Keys of `train` that change nothing beside the others, although they change artifact keys."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deepcluster_core.data.augment_config import COLOUR_STRENGTHS
from stages.train import TrainConfig

if TYPE_CHECKING:
    from stages.runs.conflicts import Conflict


def keys_without_effect(train: TrainConfig) -> Iterator["Conflict"]:
    """Yield the keys that change nothing, each as a conflict."""
    if train.colour is not None and not train.colour.has_strength:
        *keys, last = COLOUR_STRENGTHS
        yield (
            ("train.colour",),
            f"train.colour: changes nothing; give at least one of {', '.join(keys)} and {last}, or "
            f"leave it out (--set train.colour=null)",
        )
    schedule = train.schedule
    if schedule is not None and schedule.start_lr > 0 and schedule.warmup_epochs == 0:
        yield (
            ("train.schedule",),
            f"train.schedule.start_lr: {schedule.start_lr:g} is the rate with which a warm-up "
            f"begins, and train.schedule.warmup_epochs is 0; give warmup_epochs, or leave start_lr "
            f"out (--set train.schedule.start_lr=0)",
        )
