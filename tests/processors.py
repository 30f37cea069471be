"""Run a command as older processors would: with the kernels that libraries choose on them.

    python -m tests.processors [--if-older] avx2 sse41 -- COMMAND …

PyTorch, oneDNN, MKL, OpenBLAS, NumPy and faiss choose their kernels by the processor. Other kernels
round differently and are of other speed, so what holds on one machine may not on the next. Each
library reads a variable that limits it; together they make this machine compute like an older one.
Names that a library does not know, it ignores. With --if-older, a processor that this one does not
exceed is left out, because the command computes the same without limits.
"""

import os
import platform
import subprocess
import sys

from benchmarks.machine import cpu_flags

PROCESSORS = {
    # AMD up to Zen 3, Intel up to 2016 and most of its desktops: no AVX-512, no bfloat16.
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "FAISS_SIMD_LEVEL": "AVX2",
        "FAISS_OPT_LEVEL": "avx2",  # faiss before 1.14
    },
    # The least that the libraries run on.
    "sse41": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        "FAISS_SIMD_LEVEL": "NONE",
        "FAISS_OPT_LEVEL": "generic",
    },
}


NEWER = {"avx2": ("avx512", "avx10", "avx_vnni", "avx_ne", "amx"), "sse41": ("avx",)}
"""Beginnings of the flags, as Linux calls them, of a processor that exceeds each of them."""


def environment(processor: str) -> dict[str, str]:
    """Return the environment of this process with the limits of a processor."""
    return os.environ | PROCESSORS[processor]


def exceeds(flags: set[str], processor: str) -> bool:
    """Return whether a processor with these flags has instructions that another one lacks."""
    return any(flag.startswith(NEWER[processor]) for flag in flags)


def main(arguments: list[str]) -> int:
    """Run the command once for each processor; return the exit code of the first that fails."""
    only_older = arguments[:1] == ["--if-older"]
    arguments = arguments[only_older:]
    if "--" not in arguments or not set(arguments[: arguments.index("--")]) <= PROCESSORS.keys():
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    split = arguments.index("--")
    if platform.machine() not in {"x86_64", "AMD64"}:
        print(f"not on {platform.machine()}: the limits are those of x86-64")  # noqa: T201
        return 0
    flags = cpu_flags()
    for processor in arguments[:split]:
        if only_older and flags and not exceeds(flags, processor):
            print(f"this processor is like one with {processor} only: left out")  # noqa: T201
            continue
        print(f"as on a processor with {processor} only:", flush=True)  # noqa: T201
        done = subprocess.run(arguments[split + 1 :], env=environment(processor), check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
