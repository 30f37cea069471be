"""The section `compute` of a recipe: where a run computes, and with how many processes."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, WithJsonSchema

from deepcluster_core.config import StrictConfig
from deepcluster_core.context import FeedName, StepName
from deepcluster_core.tracking.registry import TRACKERS, known_tracker

WORKERS_AT_MOST = 4096
RANKS_AT_MOST = 4096
PORT = re.compile(r"[1-9][0-9]{0,4}")
LAST_PORT = 65_535
DEVICES = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,4}))?")
OTHER_DEVICES = ("mps", "xpu", "hip", "rocm", "xla", "tpu", "hpu", "npu", "vulkan", "metal", "mtia")


def _device(text: str) -> str:
    """Return the device if it is written correctly; raise ValueError with the reason if not."""
    if DEVICES.fullmatch(text):
        return text
    raise ValueError(f"must be auto, cpu, cuda or cuda:N; {_why_not(text)}")


def _why_not(text: str) -> str:
    kind = text.partition(":")[0].lower()
    if kind in OTHER_DEVICES:
        return "only NVIDIA GPUs are supported"
    if kind in ("cuda", "gpu", "nvidia"):
        return "N is the number of a GPU, from 0, as in cuda:1"
    return "CPUs and NVIDIA GPUs (CUDA) are supported"


def _address(text: str) -> str:
    """Return the address if it is written correctly; raise ValueError if not."""
    host, _, port = text.rpartition(":")
    # torchrun's store listens on the port after this one.
    is_port = PORT.fullmatch(port) is not None and int(port) < LAST_PORT
    if not host or not is_port:
        raise ValueError("must be HOST:PORT, such as node1:29500 or 10.0.0.1:29500")
    return text


TrackerName = Annotated[
    str, AfterValidator(known_tracker), WithJsonSchema({"type": "string", "enum": [*TRACKERS]})
]


class ComputeConfig(StrictConfig):
    """Where a run computes. Does not change results on a CPU, nor the key of any artifact.

    There is one exception: `feed: device` on a CPU, which is meant for tests.
    """

    absent_when_none = frozenset(("feed", "step"))

    device: Annotated[str, AfterValidator(_device)] = "auto"
    """auto: the current CUDA device, which is the first one; the CPU if there is none."""

    workers: Annotated[PositiveInt, Field(le=WORKERS_AT_MOST)] | None = None
    """Threads of a rank that read and transform images. None: the cores of the machine divided by
    its ranks."""

    ranks: Annotated[PositiveInt, Field(le=RANKS_AT_MOST)] | Literal["auto"] = "auto"
    """Processes that index, extract, cluster and train together. auto: as many as Slurm has tasks
    for this job, elsewhere one for each visible GPU, and one on a CPU. See
    docs/how-to/several-gpus.md."""

    launcher: Literal["auto", "process", "torchrun", "srun", "ray"] = "auto"
    """What starts the ranks. process: nothing, the single rank is the run's own process. ray: Ray,
    see docs/how-to/ray.md. auto: srun in a Slurm allocation of several tasks, elsewhere torchrun if
    there are several ranks."""

    feed: FeedName | None = None
    """Where images are cropped, resized and flipped. host: by the workers, which round the result
    to whole values of 0 to 255. device: where the network computes, without rounding; the workers
    only copy. None: device on a GPU, host on a CPU. See docs/how-to/gpu-images.md."""

    step: StepName | None = None
    """How a training step is given to a GPU. eager: operation by operation. graph: as one CUDA
    graph. None: graph where it is possible."""

    threads: Annotated[PositiveInt, Field(le=WORKERS_AT_MOST)] | None = None
    """Threads of numerical libraries in a rank; another number can change the last digits of
    results. None: the cores of the machine divided by its ranks."""

    scratch: Path | None = None
    """Folder for large intermediate results, on a local disk. None: `$XDG_CACHE_HOME/deepcluster`,
    or `~/.cache/deepcluster`."""

    scratch_bytes: PositiveInt | None = None
    """Most bytes that runs and images of object stores take in the scratch folder. To stay below,
    files of runs are deleted there once they are on the store, and fetched again when they are
    needed. None: no limit for runs; for images that are being packed, 8 GiB or half of the free
    disk. Ranks that pack images divide it among them."""

    nodes: PositiveInt = 1
    """Machines on which torchrun starts ranks; see docs/how-to/several-machines.md."""

    address: Annotated[str, AfterValidator(_address)] | None = None
    """HOST:PORT of the first of several machines. The others must reach this port and the next."""

    timeout_s: PositiveFloat = 600
    """Seconds that a rank waits for the others before it gives up."""

    save_every_s: PositiveFloat | None = 300
    """Seconds between saves of the training state. An interrupted run continues from the last save,
    with exactly the next image. None: save only when stopped by SIGTERM or Ctrl-C."""

    save_every_steps: PositiveInt | None = None
    """Steps between saves of the training state. If `save_every_s` is set too, whichever comes
    first triggers a save."""

    track: TrackerName | None = None
    """A tracker that gets metrics and pictures while the run goes on: mlflow, tensorboard or wandb.
    One that fails does not end the run. See docs/how-to/track.md."""


def scratch_folder(compute: ComputeConfig) -> Path:
    """Return the folder for large intermediate results. It need not exist."""
    if compute.scratch is not None:
        return compute.scratch
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "deepcluster"
