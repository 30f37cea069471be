"""Every random number of a run comes from its one seed, through a name.

No consumer shares a stream with another, and none touches a global generator for good, so a stage
that runs alone, or again, draws what it drew in the whole run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return the seed, 0 to 2**63 - 1, that belongs to `names` under the run's `seed`.

    By convention the names are epoch, stage and purpose: `derive(31, 4, "train", "order")`.
    """
    text = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return NumPy's generator for `names`."""
    return np.random.default_rng(derive(seed, *names))


@contextmanager
def torch_seeded(seed: int, device: "torch.device | None" = None) -> Iterator[None]:
    """Seed torch inside the block, and leave the global generators as they were before it.

    Layers draw from torch's global generator (initialisation, dropout) and take no other; this
    is the one place that lends it to them.
    """
    import torch  # noqa: PLC0415  many that only need `derive` do without

    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.manual_seed(seed)
        yield
