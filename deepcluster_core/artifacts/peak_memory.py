"""The peak memory of a process while it makes an artifact."""

import sys
from pathlib import Path
from types import ModuleType


def reset_peak_memory(device: str) -> None:
    """Count the peaks of main memory and of the device from now on."""
    cuda = _cuda_in_use(device)
    if cuda is not None:
        cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux: the peak then covers the whole life of the process


def peak_memory_bytes() -> int:
    """Return the peak main memory of this process."""
    try:
        status = Path("/proc/self/status").read_text()
        after_name = status.split("VmHWM:")[1]
        return int(after_name.split()[0]) * 1024
    except (OSError, IndexError):
        import resource  # noqa: PLC0415  not on Windows, where artifacts can be read only

        # macOS reports bytes, other systems kilobytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_device_bytes(device: str) -> int | None:
    """Return the peak GPU memory of torch's tensors; None on a CPU."""
    cuda = _cuda_in_use(device)
    return None if cuda is None else cuda.max_memory_allocated(device)


def _cuda_in_use(device: str) -> ModuleType | None:
    """Return torch.cuda if it is in use and tracks the memory of this device."""
    kind, _, number = device.partition(":")
    # Code that only reads artifacts imports this module and should not have to import torch.
    torch = sys.modules.get("torch")
    if kind != "cuda" or torch is None or not torch.cuda.is_initialized():
        return None
    index = int(number or 0)
    device_exists = index < torch.cuda.device_count()
    return torch.cuda if device_exists else None
