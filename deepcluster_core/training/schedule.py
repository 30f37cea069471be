"""Learning rates that follow from the number of the step alone, so that nothing is saved."""

import math
from dataclasses import dataclass

from deepcluster_core.errors import ConfigError
from deepcluster_core.training.config import ScheduleConfig


@dataclass(frozen=True)
class WarmupCosine:
    """A linear rise, and then half a cosine down to the last step (Caron et al. 2020, A.1)."""

    start_lr: float
    """Learning rate of the first step of the rise."""
    lr: float
    """Learning rate at the top."""
    final_lr: float
    """Learning rate of the last step."""
    warmup_steps: float
    """Steps of the rise; the fraction of a step shifts the top between two steps."""
    num_steps: int
    """Steps from the first to the last; later ones have the rate of the last."""

    def at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 over all epochs."""
        if step < self.warmup_steps:
            return self.start_lr + (self.lr - self.start_lr) * step / self.warmup_steps
        falling_steps = self.num_steps - 1 - self.warmup_steps
        if falling_steps <= 0:  # the rise takes all steps
            return self.lr
        done = min(1.0, (step - self.warmup_steps) / falling_steps)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class EpochSchedule:
    """A schedule as the steps of one epoch see it."""

    schedule: WarmupCosine
    first_step: int
    """Number of steps of all earlier epochs."""

    def at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 within the epoch."""
        return self.schedule.at(self.first_step + step)


def schedule_of_epoch(
    keys: ScheduleConfig | None, *, lr: float, epoch: int, num_steps: int
) -> EpochSchedule | None:
    """Return the learning rates of an epoch; None if they are constant.

    Args:
        keys: the schedule of all epochs, or None.
        lr: learning rate at the top.
        epoch: number of the epoch, from 0.
        num_steps: steps in each epoch.

    Raises:
        ConfigError: the schedule ends before this epoch.
    """
    if keys is None:
        return None
    if epoch >= keys.epochs:
        raise ConfigError(
            f"train.schedule.epochs: the schedule ends after epoch {keys.epochs - 1}, so there is "
            f"no learning rate for epoch {epoch}.\n"
            f"  Fix: lower epochs, or start a new run with a longer schedule; it changes the "
            f"learning rates of all epochs."
        )
    whole = WarmupCosine(
        start_lr=keys.start_lr,
        lr=lr,
        final_lr=keys.final_lr,
        warmup_steps=keys.warmup_epochs * num_steps,
        num_steps=keys.epochs * num_steps,
    )
    return EpochSchedule(whole, epoch * num_steps)
