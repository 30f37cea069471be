"""The environment of a benchmark: the machine, the versions, the commit."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from deepcluster_core.limits import num_cores

__all__ = ["ROOT", "commit", "machine", "num_cores", "versions"]

ROOT = Path(__file__).parent.parent
LIBRARIES = (
    "torch",
    "torchvision",
    "triton",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
    "pillow",
    "zarr",
    "pyarrow",
    "prefect",
    "scikit-learn",
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets that decide how fast a CPU multiplies matrices; those it has are recorded."""


LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES",
    "FAISS_SIMD_LEVEL",
    "FAISS_OPT_LEVEL",
)
"""Variables that keep libraries from instructions of the processor; those that are set are
recorded."""


def machine() -> dict[str, Any]:
    """Return the processor, the cores and memory this process may use, and the GPUs."""
    model, instructions = _processor()
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "instructions": instructions,
        "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "cores": num_cores(),
        "memory_bytes": memory_bytes,
        "gpus": _gpus(),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),  # other programs make figures worse
    }


def instruction_limit() -> str | None:
    """Return AVX2, or an older limit, where networks have no newer instructions; None elsewhere."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    if limit is not None:
        return limit
    _, instructions = _processor()
    return "AVX2" if instructions == ["avx2"] else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide the speed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of this checkout, with `+changes` if edited; None outside a checkout."""
    options = ("--always", "--abbrev=40", "--dirty=+changes", "--exclude=*")
    return _output_of("git", "describe", *options)


def cpu_flags() -> set[str]:
    """Return the flags of the processor, as Linux calls them; none where they are not known."""
    return set(_cpu_fields().get("flags", "").split())


def _processor() -> tuple[str, list[str]]:
    fields = _cpu_fields()
    model = fields.get("model name") or platform.processor() or platform.machine()
    flags = cpu_flags()
    return model, [name for name in INSTRUCTIONS if name in flags]


def _cpu_fields() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return {}
    # Every core has its own block; they are equal, so that the last one may win.
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def _gpus() -> list[str]:
    """Return name and memory of each GPU, from the driver: importing torch takes seconds."""
    output = _output_of("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return output.splitlines() if output else []


def _output_of(program: str, *arguments: str) -> str | None:
    """Return what a program prints, or None if it is not installed or fails."""
    if shutil.which(program) is None:
        return None
    try:
        ended = subprocess.run(  # noqa: S603  our own words
            [program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.strip()
