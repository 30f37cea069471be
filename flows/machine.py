"""What of this machine a process may use."""

import os

import torch

from deepcluster_core.errors import ConfigError


def num_cores() -> int:
    """Return how many cores this process may use, which in a container are not all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_device(wanted: str) -> str:
    """Return the torch device that `compute.device` means here.

    Raises:
        ConfigError: there is no such device.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.startswith("cuda") and int(wanted.partition(":")[2] or 0) >= there:
        raise ConfigError(
            f"compute.device: {wanted} asked for, but this machine has {there or 'no'} usable CUDA "
            f"device{'s' if there > 1 else ''}.\n"
            f"  Fix: --set compute.device=cpu, or leave it out."
        )
    return wanted
