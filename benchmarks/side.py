"""One side of a benchmark: `python -m benchmarks.side MODULE:FUNCTION JSON`, driven by `harness`.

Every line on stdin is the name of a file. The first is made once the function's module is imported;
for each further one the function is called with the arguments, and its figures are written there.
Nothing of ours is imported before that module, which may need its settings to come first.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Serve until stdin ends."""
    target, arguments = sys.argv[1:]
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    given = json.loads(arguments)
    Path(sys.stdin.readline().rstrip("\n")).touch()  # imported
    for line in sys.stdin:
        out = Path(line.rstrip("\n"))
        _reset_peak_memory()
        start = time.perf_counter()
        figures = function(**given) or {}
        seconds = time.perf_counter() - start
        record = {"seconds": seconds, "peak_bytes": peak_memory_bytes(), **figures}
        part = out.with_suffix(".part")
        part.write_text(json.dumps(record))
        part.replace(out)
    sys.stdout.flush()
    os._exit(0)  # taking gigabytes of tensors apart one by one would take a second


def peak_memory_bytes(process: int | str = "self") -> int:
    """Return the peak of a process's memory since its counter was last set to zero; 0 if gone.

    Not `getrusage`: its peak begins with the memory of the process that started this one.
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
