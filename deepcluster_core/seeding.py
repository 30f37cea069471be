"""Derive every random stream of a run from the run's one seed and a name.

No two consumers share a stream, and none changes a global generator permanently. A stage that is
run alone, or a second time, therefore draws the numbers that it drew within the whole run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return the seed, 0 to 2**63 - 1, for `names` in a run with this `seed`.

    By convention the names are epoch, stage and purpose: `derive(31, 4, "train", "order")`.
    """
    text = "/".join(str(name) for name in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8]) >> 1  # 63 bits fit into any signed integer


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded by `derive` for `names`."""
    return np.random.default_rng(derive(seed, *names))


@contextmanager
def torch_seeded(seed: int, device: "torch.device | None" = None) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore their state afterwards.

    Initialisation and dropout draw from torch's global generator and accept no other. This is the
    only place that seeds it.

    Args:
        seed: 0 to 2**63 - 1.
        device: a GPU that also draws; None if all numbers are drawn on the CPU.
    """
    import torch  # noqa: PLC0415  slow, and callers that only need `derive` do without it

    # The CPU's generator is always restored, and that of a GPU if it is in use.
    gpus: list[torch.device] = []
    if device is not None and device.type == "cuda":
        gpus.append(device)
    with torch.random.fork_rng(devices=gpus):
        # torch.manual_seed would seed the generators of all devices, and not only those whose state
        # is restored. It takes 0.4 ms, which is much for a training step.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            _seed_gpu(gpu, seed)
        yield


def _seed_gpu(device: "torch.device", seed: int) -> None:
    import torch  # noqa: PLC0415  as above

    # torch declares it as a number, but it is None for `cuda`.
    number = cast("int | None", device.index)
    if number is None:
        number = torch.cuda.current_device()
    # There is one for each GPU, as soon as any has been used.
    torch.cuda.default_generators[number].manual_seed(seed)
