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

from benchmarks.harness import VERDICTS, BenchmarkError, Target, guarded
from benchmarks.options import RESULTS

README = Path(__file__).parent / "README.md"
BEGIN = "<!-- made by python -m benchmarks.report --write -->"


def main(argv: list[str] | None = None) -> None:
    """Print the table, and write it if asked to."""
    arguments = argparse.ArgumentParser("python -m benchmarks.report", description=__doc__)
    arguments.add_argument(
        "folder", nargs="?", type=Path, default=RESULTS, help="folder of the JSON files"
    )
    arguments.add_argument(
        "--write", action="store_true", help=f"write the table into {README.name}"
    )
    given = arguments.parse_args(argv)
    table = markdown(given.folder)
    Console(highlight=False, soft_wrap=True, markup=False).print(table)
    if given.write:
        README.write_text(with_table(README.read_text(), table))


def markdown(folder: Path) -> str:
    """Return a row for each target, and a line for each machine and commit below.

    Raises:
        BenchmarkError: there are no results.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise BenchmarkError(
            f"{folder}: holds no results.\n  Fix: run benchmarks first, for example make bench."
        )
    rows = ["| benchmark | what | reached | target | |", "|---|---|---|---|---|"]
    notes: list[str] = []
    tables: list[str] = []
    for path in paths:
        record = json.loads(path.read_text())
        for target in record["targets"]:
            rows.append(_row(record["benchmark"], target))
        notes += _measured_on(record)
        tables += _table_of(record)
    lines = [*rows, "", *notes, *tables]
    return "\n".join(lines)


def with_table(text: str, table: str) -> str:
    """Return a README whose last section is the table."""
    before = text.partition(BEGIN)[0].rstrip()
    return f"{before}\n\n{BEGIN}\n## Results\n\n{table}\n"


def _table_of(record: dict[str, Any]) -> list[str]:
    """Return a benchmark's own table, with a heading; nothing if it has none."""
    table = record.get("table")
    if table is None:
        return []
    header: list[str] = table["header"]
    rows = [header, ["---"] * len(header), *table["rows"]]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    taus = [
        f"- Kendall's τ of `{name}`, {found['runs']} runs: {_taus(found)}"
        for name, found in record.get("kendall_tau", {}).items()
    ]
    return ["", f"### {record['benchmark']}", "", *lines, "", *taus]


def _taus(found: dict[str, Any]) -> str:
    """Return the τ of each task as text; a τ that is not defined is a dash."""
    parts: list[str] = []
    for task, tau in found.items():
        if task != "runs":
            parts.append(f"{task} –" if tau is None else f"{task} {tau:.2f}")
    return ", ".join(parts)


def _row(benchmark: str, stored: dict[str, Any]) -> str:
    # `met` is computed from the other fields.
    fields = {name: value for name, value in stored.items() if name != "met"}
    target = Target(**fields)
    verdict = VERDICTS[target.met]
    if target.met is False:
        verdict = f"**{verdict}**"
    cells = " | ".join((f"`{benchmark}`", target.what, target.reached, target.wanted, verdict))
    return f"| {cells} |"


def _measured_on(record: dict[str, Any]) -> list[str]:
    """Return a list item on the machine, the sizes and the commit, and the notes below it."""
    machine = record["machine"]
    num_cores = machine["cores"]
    parts = [machine["cpu"], f"{num_cores} cores", *machine["gpus"]]
    size = "small sizes" if record["quick"] else f"{record['repeats']} runs a side"
    day = record["date"][:10]
    commit = record["commit"] or "unknown"  # measured outside a checkout
    name = record["benchmark"]
    line = f"- `{name}`: {', '.join(parts)}; {size}; {day}, {commit[:12]}"
    notes = [f"  - {note}" for note in record["notes"]]
    return [line, *notes]


if __name__ == "__main__":
    sys.exit(guarded(main))
