"""Scores that tests let networks learn, and how far from them the thresholds are.

    python -m tests.margins                                 every test marked `learns`
    python -m tests.margins tests/stages/test_train.py      those of a file

runs the tests with five seeds, on this processor and as on older ones (`tests.processors`), and
prints for each quantity its threshold, mean, standard deviation and margin: the distance of the
mean from the threshold, in standard deviations over all seeds and processors. A threshold that is
right for this machine and seed alone breaks on the next one, so three are demanded.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

from tests.processors import PROCESSORS

SHIFT = int(os.environ.get("DEEPCLUSTER_TEST_SEED", "0"))
"""Added to the seeds of tests marked `learns`; 0 but where margins are measured."""
SEED = 31 + SHIFT
LEARN = ["tests/benchmarks", "tests/core", "tests/stages"]
SEEDS = 5
MARGIN = 3.0
_NOTES = os.environ.get("DEEPCLUSTER_TEST_MARGINS")
"""A file to note quantities in; then no threshold fails a test, so that all of them are noted."""


def above(quantity: str, value: float, threshold: float) -> bool:
    """Return whether a learnt score is above a threshold; note it where margins are measured."""
    return _noted(quantity, value, threshold) or value > threshold


def below(quantity: str, value: float, threshold: float) -> bool:
    """Return whether a learnt score is below a threshold; note it where margins are measured."""
    return _noted(quantity, value, threshold) or value < threshold


def _noted(quantity: str, value: float, threshold: float) -> bool:
    if _NOTES is None:
        return False
    with Path(_NOTES).open("a", encoding="utf-8") as notes:
        notes.write(json.dumps([quantity, float(value), threshold]) + "\n")
    return True


def measured(paths: list[str], seeds: int) -> Iterator[tuple[str, str, float, float]]:
    """Yield processor, quantity, value and threshold of every run."""
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "learns", *paths]
    for processor, limits in {"as it is": {}, **PROCESSORS}.items():
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                notes = Path(folder) / "notes"
                notes.touch()
                asked = {"DEEPCLUSTER_TEST_SEED": str(seed), "DEEPCLUSTER_TEST_MARGINS": str(notes)}
                done = subprocess.run(
                    tests, env=os.environ | limits | asked, capture_output=True, check=False
                )
                if done.returncode:
                    print(done.stdout.decode()[-2000:], file=sys.stderr)  # noqa: T201
                for line in notes.read_text().splitlines():
                    quantity, value, threshold = json.loads(line)
                    yield processor, quantity, value, threshold
            print(f"{processor}: seed {seed}", file=sys.stderr)  # noqa: T201


def main(arguments: list[str]) -> int:
    """Print the table; return 1 if a margin is too small."""
    found: dict[tuple[str, float], dict[str, list[float]]] = {}
    for processor, quantity, value, threshold in measured(arguments or LEARN, SEEDS):
        found.setdefault((quantity, threshold), {}).setdefault(processor, []).append(value)
    small = 0
    for (quantity, threshold), by_processor in found.items():
        values = [value for of in by_processor.values() for value in of]
        deviation = stdev(values) if len(values) > 1 else 0.0
        margin = abs(mean(values) - threshold) / deviation if deviation else float("inf")
        small += margin < MARGIN
        print(  # noqa: T201
            f"{quantity:45} threshold {threshold:8.4g}, measured {mean(values):8.4g} "
            f"± {deviation:.2g} ({min(values):.4g} to {max(values):.4g}), margin {margin:.1f}"
            + "".join(f"; {name} {mean(of):.4g}" for name, of in by_processor.items())
        )
    return int(small > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
