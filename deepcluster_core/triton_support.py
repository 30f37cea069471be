"""Whether kernels that are written in Triton can run."""

import os
import shutil
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

COMPILER_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
"""Options for all kernels. Fused products and sums are more exact; Triton's default changes."""


def has_triton(device: torch.device) -> bool:
    """Return whether kernels of Triton run on this device; nothing is imported for the answer."""
    return device.type == "cuda" and missing_for_triton() is None


@cache
def missing_for_triton() -> str | None:
    """Return what Triton's kernels lack on this machine; None if they can run on its GPUs.

    When it starts its first kernel, Triton compiles a library that calls the driver.
    """
    if find_spec("triton") is None:
        return "the package triton"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler, such as gcc"
    # As Triton does: Debian's own Python has its headers where scheme `posix_prefix` says.
    scheme = sysconfig.get_default_scheme()
    if scheme == "posix_local":
        scheme = "posix_prefix"
    header = Path(sysconfig.get_paths(scheme)["include"], "Python.h")
    return None if header.exists() else f"{header}, often in a package python3-dev"


def on_device(device: torch.device) -> torch.cuda.device:
    """Make a device the current one, on which Triton starts its kernels; a CPU changes nothing."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
