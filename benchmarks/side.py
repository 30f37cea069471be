"""One side of a benchmark: `python -m benchmarks.side MODULE:FUNCTION JSON`, driven by `harness`.

Every line on stdin is the name of a file. The first file is created once the function's module is
imported. For each further file, the function is called with the arguments, and its figures are
written to the file. No module of ours is imported before the function's module, whose settings may
have to come first.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Answer requests until stdin ends."""
    target, arguments = sys.argv[1:]
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    given = json.loads(arguments)
    Path(sys.stdin.readline().rstrip("\n")).touch()  # signals that imports are finished
    for line in sys.stdin:
        out = Path(line.rstrip("\n"))
        _reset_peak_memory()
        start = time.perf_counter()
        figures = function(**given) or {}
        seconds = time.perf_counter() - start
        record = {"seconds": seconds, "peak_bytes": peak_memory_bytes(), **figures}
        # The file appears whole or not at all, because the harness waits for it to exist.
        part = out.with_suffix(".part")
        part.write_text(json.dumps(record))
        part.replace(out)
    sys.stdout.flush()
    os._exit(0)  # an orderly exit would take a second to free gigabytes of tensors


def peak_memory_bytes(process: int | str = "self") -> int:
    """Return the peak of a process's memory since its counter was last reset; 0 if it has ended.

    `getrusage` would not do: its peak starts with the memory of the parent process.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):  # ended, or not Linux
        return 0


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux


if __name__ == "__main__":
    main()
