"""Where a run computes on this machine, and what is worth knowing about that before it begins."""

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from deepcluster_core.clustering.faiss_index import reason_for_cpu
from deepcluster_core.errors import ConfigError
from deepcluster_core.limits import cpu_quota, num_cores

__all__ = ["num_cores", "remarks", "usable_device"]

PROC, DEV = Path("/proc/driver/nvidia"), Path("/dev")
ON_PURPOSE = ("", "-1", "none", "void", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES with which people hide all GPUs."""


def usable_device(wanted: str) -> str:
    """Return the torch device that `compute.device` means here.

    Raises:
        ConfigError: there is no such device.
    """
    there = _num_usable()
    if wanted == "auto":
        return "cuda" if there else "cpu"
    kind, _, number = wanted.partition(":")
    if kind == "cuda" and int(number or 0) >= there:
        raise ConfigError(
            f"compute.device: {wanted} asked for, but this machine has {_named(there)}.\n"
            f"{_cause(there)}"
            f"  Fix: --set compute.device=cpu, or leave it out."
        )
    return wanted


def remarks(wanted: str, *, uses_faiss: bool) -> Iterator[str]:
    """Yield what a person would like to know before hours are spent.

    Args:
        wanted: `compute.device`.
        uses_faiss: whether anything will be clustered by faiss.
    """
    device = usable_device(wanted)
    if wanted == "auto" and device == "cpu" and (hidden := _unused_gpu()) is not None:
        yield (
            f"computing on the CPU, although this machine has an NVIDIA GPU ({hidden}).\n"
            f"{_cause(0)}"
            f"  To go on with the CPU on purpose, and without this warning: compute.device=cpu."
        )
    if device == "cpu" and (quota := cpu_quota()) is not None and quota <= num_cores():
        yield (
            f"using {num_cores()} threads: the control group of this process, such as a container, "
            f"may use {quota:g} cores' time."
        )
    if uses_faiss:
        try:
            reason = reason_for_cpu(device)
        except ConfigError as error:  # there is no faiss: what needs it raises the same
            reason = str(error)
        if reason is not None:
            yield reason


def _num_usable() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of an old driver: `remarks` says more
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _named(count: int) -> str:
    if count == 0:
        return "no usable CUDA device"
    if count == 1:
        return "1 usable CUDA device, cuda:0"
    return f"{count} usable CUDA devices, cuda:0 to cuda:{count - 1}"


def _cause(usable: int) -> str:
    """Return why torch finds no GPU, as a line with the fix where one is known; else nothing."""
    if usable:
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there, driver = _unused_gpu(), _driver_version()
    built = f"torch {torch.__version__}"
    if not torch.backends.cuda.is_built():
        return (
            f"  Cause: {built} was built without CUDA"
            f"{'' if driver is None else f'; the driver is {driver}'}. "
            f"Install a build with CUDA to use a GPU: https://pytorch.org/get-started\n"
        )
    said = _words_of_torch()
    if visible is not None and "No CUDA GPUs" in said:
        return f"  Cause: CUDA_VISIBLE_DEVICES={visible!r} shows no GPU that exists to {built}.\n"
    if there is None:
        return ""
    if not any(DEV.glob("nvidia[0-9]*")) and not (DEV / "dxg").exists():
        return (
            "  Cause: there is no /dev/nvidia0 for this process. Containers are given the GPUs by "
            "`docker run --gpus all`, batch jobs by asking for one.\n"
        )
    return (
        f"  Cause: {built}, built for CUDA {torch.version.cuda}, cannot use NVIDIA's driver "
        f"{driver or 'of unknown version'}: {said}\n"
        f"  To use the GPU, update the driver, or install a torch for an older CUDA.\n"
    )


def _unused_gpu() -> str | None:
    """Return what shows that there is an NVIDIA GPU, whether or not torch can use it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ON_PURPOSE:
        return None
    listed = PROC / "gpus"
    if listed.is_dir() and not any(listed.iterdir()):
        return None  # a driver without a GPU, as some images of clouds have
    if (driver := _driver_version()) is not None:
        return f"driver {driver}"
    if any(DEV.glob("nvidia[0-9]*")):
        return "/dev/nvidia0 and so on"
    return None


def _driver_version() -> str | None:
    """Return the version of NVIDIA's driver: from the kernel, or, under WSL, from nvidia-smi."""
    try:
        text = (PROC / "version").read_text(errors="replace")
    except OSError:
        return _asked()
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    return found[1] if found else "of unknown version"


@cache
def _asked() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(  # noqa: S603  our own words
            query, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None  # also where it finds no GPU
    return said.stdout.partition("\n")[0].strip() or None


def _words_of_torch() -> str:
    """Return what torch says when it is made to use the GPU."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().partition("\n")[0][:300]
    return "it finds no device."
