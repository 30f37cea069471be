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
    """Print the rows of the paper, then those of runs; a cell that was not measured is empty.

    Numbers measured otherwise than in the paper are marked, and it is said where the result names
    how.

    Args:
        name: of the table.
        runs: whose results are set beside it.
        out: write the table there, too; CSV, Parquet or Markdown, by how it ends.

    Raises:
        ConfigError: there is no such table, or `out` ends otherwise.
        ArtifactError: `out` is there.
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
        console.print(f"\n{short(out)}: the same", markup=False)


def _lines(paper: PaperTable, ours: Sequence[Row]) -> list[list[str]]:
    """Return the table as people read it, its head first."""
    head = ["of", "method", *(column.name for column in paper.columns)]
    of_paper = (
        [PAPER, method, *("–" if cell is None else f"{cell:.1f}" for cell in cells)]
        for method, cells in paper.rows.items()
    )
    of_ours = ([OURS, row.method, *map(_text, row.cells)] for row in ours)
    return [head, *of_paper, *of_ours]


def _text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.value:.1f}{MARK if cell.deviations else ''}"


def _notes(paper: PaperTable, ours: Sequence[Row]) -> list[str]:
    """Return what has to be said below the table."""
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
    """Return what is printed as Markdown."""
    escaped = [[text.replace("|", r"\|").replace("*", r"\*") for text in line] for line in lines]
    head, *rows = [f"| {' | '.join(map(printable, line))} |" for line in escaped]
    ruler = "|".join(["", "---", "---", *("--:" for _ in paper.columns), ""])
    below = [note.replace("*", r"\*") for note in notes]
    return "\n".join([paper.title, "", paper.unit, "", head, ruler, *rows, "", *below, ""])


def _frame(paper: PaperTable, ours: Sequence[Row]) -> pd.DataFrame:
    """Return the table for programs: numbers, null where there is none, and deviations in words."""
    names = [column.name for column in paper.columns]
    rows = [
        {"of": PAPER, "method": method, **dict(zip(names, cells, strict=True))}
        for method, cells in paper.rows.items()
    ]
    for row in ours:
        known = {n: cell for n, cell in zip(names, row.cells, strict=True) if cell is not None}
        told = (f"{n}: {'; '.join(c.deviations)}" for n, c in known.items() if c.deviations)
        values = {name: cell.value for name, cell in known.items()}
        about = {"of": OURS, "method": row.method, "deviations": "\n".join(told) or None}
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
