"""Whether kernels that are written in Triton can run."""

from functools import cache
from importlib.util import find_spec

import torch

COMPILER_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
"""Options for all kernels. Fused products and sums are more exact; Triton's default changes."""


@cache
def has_triton(device: torch.device) -> bool:
    """Return whether kernels of Triton run on this device; nothing is imported for the answer."""
    return device.type == "cuda" and find_spec("triton") is not None


def on_device(device: torch.device) -> torch.cuda.device:
    """Make a device the current one, on which Triton starts its kernels; a CPU changes nothing."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
