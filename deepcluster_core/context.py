"""The context of a stage: seed, epoch, device and callbacks, passed in instead of looked up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepcluster_core.progress import Progress, silent
from deepcluster_core.ranks import ALONE, Ranks

FeedName = Literal["host", "device"]
StepName = Literal["eager", "graph"]


@dataclass(frozen=True)
class SaveEvery:
    """How often to save the state of a long stage: at whichever limit is reached first.

    A limit of None is never reached.
    """

    seconds: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Context:
    """Arguments of every stage besides its configuration, inputs and output.

    Only `seed` and `epoch` may change what a stage writes; the rest decides where and how it runs.
    """

    seed: int
    """The seed of the run; a stage derives its own seeds with `seeding.derive`."""
    epoch: int | None = None
    """The epoch, or None for a stage that runs once per run."""
    device: str = "cpu"
    """A torch device: `cpu`, `cuda`, `cuda:1`."""
    workers: int = 2
    """Threads that read and transform images while the device computes."""
    progress: Progress = silent
    save_every: SaveEvery = SaveEvery()
    """When stages that take hours save their state."""
    ranks: Ranks = ALONE
    """The processes that make the artifact together."""
    feed: FeedName | None = None
    """Where images are cropped, resized and flipped; None for the device if it is a GPU. See
    `is_fed_on_device`."""
    step: StepName | None = None
    """Whether a GPU gets each operation of a training step from the CPU (eager), or all of them at
    once as a CUDA graph; None for the latter where that is possible."""
    scratch: Path | None = None
    """Folder for large intermediate results, on a local disk; None for the system's own choice."""
    scratch_bytes: int | None = None
    """Limit on what is kept there of files of an object store; None for a limit by the disk."""

    def is_fed_on_device(self, shorter_side: int | None) -> bool:
        """Return whether images are cropped, resized and flipped on the device.

        A batch of pictures of any size would fill the memory of the device, and the page-locked
        memory of several batches that of the machine. Threads make the views of such pictures.

        Args:
            shorter_side: pixels of the shorter side of every image; None if images keep their own
                sizes.
        """
        if shorter_side is None:
            return False
        if self.feed is not None:
            return self.feed == "device"
        return self.device.startswith("cuda")
