"""The table of all targets from the JSON files of a folder, as Markdown.

`python -m benchmarks.report` prints it for benchmarks/results; `--write` makes it the last section
of benchmarks/README.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import RESULTS, BenchmarkError, Target, guarded

README = Path(__file__).parent / "README.md"
BEGIN = "<!-- made by python -m benchmarks.report --write -->"


def main(argv: list[str] | None = None) -> None:
    """Print the table, and write it if asked to."""
    made = argparse.ArgumentParser("python -m benchmarks.report", description=__doc__)
    made.add_argument("folder", nargs="?", type=Path, default=RESULTS, help="of the JSON files")
    made.add_argument("--write", action="store_true", help=f"into {README.name}")
    given = made.parse_args(argv)
    table = markdown(given.folder)
    Console(highlight=False, soft_wrap=True, markup=False).print(table)
    if given.write:
        README.write_text(with_table(README.read_text(), table))


def markdown(folder: Path) -> str:
    """Return a row for each target, and a line for each machine and commit below.

    Raises:
        BenchmarkError: there are no results.
    """
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise BenchmarkError(
            f"{folder}: holds no results.\n  Fix: run benchmarks first, for example make bench."
        )
    rows = ["| benchmark | what | reached | target | |", "|---|---|---|---|---|"]
    notes: list[str] = []
    for record in records:
        rows += [_row(record["benchmark"], target) for target in record["targets"]]
        notes += _measured_on(record)
    return "\n".join([*rows, "", *notes])


def with_table(text: str, table: str) -> str:
    """Return a README whose last section is the table."""
    before = text.partition(BEGIN)[0].rstrip()
    return f"{before}\n\n{BEGIN}\n## Results\n\n{table}\n"


def _row(benchmark: str, stored: dict[str, Any]) -> str:
    target = Target(**{name: value for name, value in stored.items() if name != "met"})
    verdict = {True: "met", False: "**missed**", None: ""}[target.met]
    cells = (f"`{benchmark}`", target.what, target.reached, target.wanted, verdict)
    return f"| {' | '.join(cells)} |"


def _measured_on(record: dict[str, Any]) -> list[str]:
    machine = record["machine"]
    where = [machine["cpu"], f"{machine['cores']} cores", *machine["gpus"]]
    size = "small sizes" if record["quick"] else f"{record['repeats']} runs a side"
    commit = (record["commit"] or "unknown")[:12]
    line = f"- `{record['benchmark']}`: {', '.join(where)}; {size}; {record['date'][:10]}, {commit}"
    return [line, *(f"  - {note}" for note in record["notes"])]


if __name__ == "__main__":
    sys.exit(guarded(main))
