"""What `deepcluster evaluate table2` prints and writes: the paper's numbers beside ours."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table

from deepcluster_core.artifacts.outputs import whole_files, write_marked_frame
from deepcluster_core.errors import ConfigError
from deepcluster_core.text import printable
from flows.show.paper_tables import Cell, PaperTable, Row, load_table, measured
from flows.show.run import console_for_tables, short
from stages.runs.folder import RunFolder

PAPER, OURS = "paper", "ours"
MARK = "*"
SUFFIXES = (".csv", ".parquet", ".md")


def show_table(name: str, runs: Sequence[RunFolder], out: Path | None = None) -> None:
    """Print the rows of the paper, and then those of runs. A cell without a measurement is empty.

    Numbers that deviate from the paper's protocol are marked; a note names the file that lists the
    deviations.

    Args:
        name: name of the table.
        runs: runs whose results are compared with the table.
        out: file for the table: CSV, Parquet or Markdown according to its suffix.

    Raises:
        ConfigError: there is no such table, or the suffix of `out` is unknown.
        ArtifactError: `out` exists.
    """
    if out is not None and out.suffix not in SUFFIXES:
        raise ConfigError(
            f"--out {out}: must end in one of {', '.join(SUFFIXES)}.\n"
            f"  Fix: --out {out.with_suffix(SUFFIXES[0])}"
        )
    paper = load_table(name)
    ours = [row for run in runs for row in measured(paper, run)]
    lines = _lines(paper, ours)
    console = console_for_tables()
    console.print(f"\n{paper.title}\n{paper.unit}\n", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, header in enumerate(lines[0]):
        table.add_column(header.replace(" ", "\n"), justify="left" if place < 2 else "right")
    for line in lines[1:]:
        table.add_row(*map(printable, line))
    console.print(table)
    notes = _notes(paper, ours)
    console.print("", *notes, sep="\n", markup=False)
    if out is not None:
        _write(out, _frame(paper, ours), _markdown(paper, lines, notes))
        console.print(f"\n{short(out)}: this table", markup=False)


def _lines(paper: PaperTable, ours: Sequence[Row]) -> list[list[str]]:
    """Return the table as text, beginning with the line of headers."""
    headers = ["of", "method", *(column.name for column in paper.columns)]
    paper_lines = (
        [PAPER, method, *("–" if cell is None else f"{cell:.1f}" for cell in cells)]
        for method, cells in paper.rows.items()
    )
    our_lines = ([OURS, row.method, *map(_text, row.cells)] for row in ours)
    return [headers, *paper_lines, *our_lines]


def _text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.value:.1f}{MARK if cell.deviations else ''}"


def _notes(paper: PaperTable, ours: Sequence[Row]) -> list[str]:
    """Return the notes below the table."""
    if not ours:
        results = ", ".join(dict.fromkeys(column.result for column in paper.columns))
        return [f"no run has one of the results {results} yet: deepcluster evaluate …"]
    cells = (cell for row in ours for cell in row.cells if cell and cell.deviations)
    marked = {cell.result: cell for cell in cells}
    return ["Columns name the paper's data sets; ours are on those of the results."] + [
        f"{MARK} {_counted(cell)} from the paper's protocol: {short(place)}/{cell.named_in}"
        for place, cell in marked.items()
    ]


def _counted(cell: Cell) -> str:
    number = len(cell.deviations)
    return f"{number} deviation{'' if number == 1 else 's'}"


def _markdown(paper: PaperTable, lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Return everything that is printed, as Markdown."""
    escaped = [[text.replace("|", r"\|").replace("*", r"\*") for text in line] for line in lines]
    head, *rows = [f"| {' | '.join(map(printable, line))} |" for line in escaped]
    ruler = "|".join(["", "---", "---", *("--:" for _ in paper.columns), ""])
    below = [note.replace("*", r"\*") for note in notes]
    return "\n".join([paper.title, "", paper.unit, "", head, ruler, *rows, "", *below, ""])


def _frame(paper: PaperTable, ours: Sequence[Row]) -> pd.DataFrame:
    """Return the table for programs: numbers, null if missing, and a column of deviations."""
    names = [column.name for column in paper.columns]
    rows = [
        {"of": PAPER, "method": method, **dict(zip(names, cells, strict=True))}
        for method, cells in paper.rows.items()
    ]
    for row in ours:
        cells = zip(names, row.cells, strict=True)
        known = {name: cell for name, cell in cells if cell is not None}
        deviations = (
            f"{name}: {'; '.join(cell.deviations)}"
            for name, cell in known.items()
            if cell.deviations
        )
        values = {name: cell.value for name, cell in known.items()}
        about = {"of": OURS, "method": row.method, "deviations": "\n".join(deviations) or None}
        rows.append(about | values)
    frame = pd.DataFrame(rows, columns=["of", "method", *names, "deviations"])
    return frame.astype(dict.fromkeys(names, float))


def _write(out: Path, frame: pd.DataFrame, markdown: str) -> None:
    with whole_files(out) as (part,):
        if out.suffix == ".md":
            part.write_text(markdown, encoding="utf-8")
        elif out.suffix == ".csv":
            frame.to_csv(part, index=False)
        else:
            write_marked_frame(part, frame, {"command": "evaluate"})
