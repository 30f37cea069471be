"""When and where a stage runs: everything that it may not ask the environment for."""

from dataclasses import dataclass

from deepcluster_core.progress import Progress, silent


@dataclass(frozen=True)
class SaveEvery:
    """How often long work is saved. Whichever comes first; None never does."""

    seconds: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Context:
    """Given to every stage beside its configuration, inputs and output.

    Only `seed` and `epoch` may change what a stage writes; the rest is where it runs.
    """

    seed: int
    """Of the run; a stage derives its own by `seeding.derive`."""
    epoch: int | None = None
    """None for a stage that runs once."""
    device: str = "cpu"
    """A torch device: `cpu`, `cuda`, `cuda:1`."""
    workers: int = 2
    """Threads that read and transform images while the device computes."""
    progress: Progress = silent
    save_every: SaveEvery = SaveEvery()
    """For stages that take hours."""
