"""Choose the device for a run on this machine, and warn about peculiarities of the machine."""

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from deepcluster_core.clustering.faiss_index import library_for, reason_for_torch
from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.limits import cpu_quota, num_cores

__all__ = ["check_gpus", "num_cores", "num_gpus", "remarks", "usable_device"]

PROC, DEV = Path("/proc/driver/nvidia"), Path("/dev")
ON_PURPOSE = ("", "-1", "none", "void", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES with which people hide all GPUs on purpose."""


def usable_device(wanted: str) -> str:
    """Return the torch device that `compute.device` means here.

    Raises:
        ConfigError: the device is not available.
    """
    num_usable = _num_usable()
    if wanted == "auto":
        return "cuda" if num_usable else "cpu"
    # `cuda` alone is the first device.
    kind, _, number = wanted.partition(":")
    if kind == "cuda" and int(number or 0) >= num_usable:
        raise ConfigError(
            f"compute.device: {wanted} asked for, but this machine has {_named(num_usable)}.\n"
            f"{_cause(num_usable)}"
            f"  Fix: --set compute.device=cpu, or leave it out."
        )
    return wanted


def num_gpus() -> int:
    """Return how many GPUs torch can use here."""
    return _num_usable()


def check_gpus(num_ranks: int, device: str) -> None:
    """Check that each of several ranks on this machine can have a GPU of its own.

    Raises:
        ConfigError: there are fewer GPUs than ranks, or the device names a single one.
    """
    if num_ranks == 1 or device == "cpu":
        return
    check_has_many_gpus(num_ranks, device)
    num_usable = _num_usable()
    if num_ranks > num_usable:
        raise ConfigError(
            f"compute.ranks: {num_ranks} ranks on this machine, which has {_named(num_usable)}.\n"
            f"  Fix: --set compute.ranks=auto, or at most {num_usable} for each machine."
        )


def check_has_many_gpus(num_ranks: int, device: str) -> None:
    """Raise ConfigError if a device names a single GPU, but there are several ranks."""
    if num_ranks > 1 and device not in ("cpu", "cuda"):
        raise ConfigError(
            f"compute.device: {device} is one GPU, for compute.ranks = {num_ranks}.\n"
            f"  Fix: --set compute.device=cuda gives each rank a GPU; CUDA_VISIBLE_DEVICES chooses "
            f"them."
        )


def remarks(wanted: str, *, uses_faiss: bool) -> Iterator[str]:
    """Yield warnings that a person should see before hours are spent.

    Args:
        wanted: value of `compute.device`.
        uses_faiss: whether faiss will cluster anything.
    """
    device = usable_device(wanted)
    # A GPU that torch cannot use costs days, and is easily overlooked.
    if wanted == "auto" and device == "cpu":
        unused_gpu = _unused_gpu()
        if unused_gpu is not None:
            yield (
                f"computing on the CPU, although this machine has an NVIDIA GPU ({unused_gpu}).\n"
                f"{_cause(0)}"
                f"  To use the CPU on purpose, and without this warning: compute.device=cpu."
            )
    # A container can limit the time on the cores without hiding any of them.
    if device == "cpu":
        quota = cpu_quota()
        if quota is not None and quota <= num_cores():
            yield (
                f"using {num_cores()} threads: the control group of this process, such as a "
                f"container, may use {quota:g} cores' time."
            )
    yield from _about_kernels(device)
    if uses_faiss:
        yield from _about_faiss(device)


def _about_kernels(device: str) -> Iterator[str]:
    """Yield a warning if a GPU has to do without the kernels that are written for it."""
    if not device.startswith("cuda"):
        return
    from deepcluster_core.triton_support import missing_for_triton  # noqa: PLC0415  imports torch

    missing = missing_for_triton()
    if missing is not None:
        yield (
            f"cropping images and Sobel's filter are slower than they could be on {device}: "
            f"Triton's kernels need {missing}."
        )


def _about_faiss(device: str) -> Iterator[str]:
    """Yield a warning if faiss is missing, or was built without support for this GPU."""
    try:
        library_for(device)
    except ConfigError as error:  # the stage that needs faiss raises this again
        yield str(error)
    reason = reason_for_torch(device)
    if reason is not None:
        yield reason


def _num_usable() -> int:
    import torch  # noqa: PLC0415  slow, and a finished run does without it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about an old driver; `remarks` says more
        if not torch.cuda.is_available():
            return 0
        return torch.cuda.device_count()


def _named(count: int) -> str:
    """Return how many devices there are, and how they are called."""
    if count == 0:
        return "no usable CUDA device"
    if count == 1:
        return "1 usable CUDA device, cuda:0"
    return f"{count} usable CUDA devices, cuda:0 to cuda:{count - 1}"


def _cause(num_usable: int) -> str:
    """Return why torch finds no GPU, with a fix if one is known; empty if it finds some."""
    if num_usable:
        return ""
    import torch  # noqa: PLC0415  slow, and a finished run does without it

    unused_gpu = _unused_gpu()
    driver = _driver_version()
    built = f"torch {torch.__version__}"
    # A build of torch for CPUs alone.
    if not torch.backends.cuda.is_built():
        about_driver = "" if driver is None else f"; the driver is {driver}"
        return (
            f"  Cause: {built} was built without CUDA{about_driver}. "
            f"Install a build with CUDA to use a GPU: https://pytorch.org/get-started\n"
        )
    # An environment variable that hides the GPUs.
    torch_error = _error_of_torch()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "No CUDA GPUs" in torch_error:
        return f"  Cause: CUDA_VISIBLE_DEVICES={visible!r} shows no GPU that exists to {built}.\n"
    if unused_gpu is None:
        return ""
    # A container or a batch job without access to the GPUs. Under WSL, the device is /dev/dxg.
    has_device_file = any(DEV.glob("nvidia[0-9]*")) or (DEV / "dxg").exists()
    if not has_device_file:
        return (
            "  Cause: there is no /dev/nvidia0 for this process. Containers are given the GPUs by "
            "`docker run --gpus all`, batch jobs by asking for one.\n"
        )
    # Most likely a driver that is too old for this build of torch.
    return (
        f"  Cause: {built}, built for CUDA {torch.version.cuda}, cannot use NVIDIA's driver "
        f"{driver or 'of unknown version'}: {torch_error}\n"
        f"  To use the GPU, update the driver, or install a torch for an older CUDA.\n"
    )


def _unused_gpu() -> str | None:
    """Return the evidence for an NVIDIA GPU, whether or not torch can use it; None without any."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ON_PURPOSE:
        return None
    listed = PROC / "gpus"
    if listed.is_dir() and not any(listed.iterdir()):
        return None  # a driver without a GPU, as in some cloud images
    driver = _driver_version()
    if driver is not None:
        return f"driver {driver}"
    if any(DEV.glob("nvidia[0-9]*")):
        return "/dev/nvidia0 and so on"
    return None


def _driver_version() -> str | None:
    """Return the version of NVIDIA's driver from the kernel or, as under WSL, from nvidia-smi."""
    try:
        text = (PROC / "version").read_text(errors="replace")
    except OSError:
        return _asked()
    version = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    return version[1] if version else "of unknown version"


@cache
def _asked() -> str | None:
    """Return the version of the driver that nvidia-smi reports."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603  our own arguments
            query, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None  # nvidia-smi also fails if it finds no GPU
    version = answer.stdout.partition("\n")[0]
    return version.strip() or None


def _error_of_torch() -> str:
    """Return the error that torch raises when it has to use the GPU."""
    import torch  # noqa: PLC0415  slow, and a finished run does without it

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error, limit=300)
    return "it finds no device."
