"""What `deepcluster evaluate table2` prints and writes: the paper's numbers beside ours."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table

from deepcluster_core.artifacts.outputs import whole_files, write_marked_frame
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import ending_in
from deepcluster_core.text import printable
from flows.show.paper_tables import Cell, PaperTable, Row, load_table, measured
from flows.show.terminal import console_for_tables, short
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
        ConfigError: the table or the suffix of `out` is unknown.
        ArtifactError: `out` exists.
    """
    if out is not None and out.suffix not in SUFFIXES:
        raise ConfigError(
            f"--out {out}: must end in one of {', '.join(SUFFIXES)}.\n"
            f"  Fix: --out {ending_in(out, SUFFIXES[0])}"
        )
    paper = load_table(name)
    ours: list[Row] = []
    for run in runs:
        ours += measured(paper, run)
    # The table, and the notes below it.
    lines = _lines(paper, ours)
    console = console_for_tables()
    console.print(f"\n{paper.title}\n{paper.unit}\n", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    headers, *rows = lines
    for place, header in enumerate(headers):
        # Two columns of text, followed by the numbers.
        justify = "left" if place < 2 else "right"
        table.add_column(header.replace(" ", "\n"), justify=justify)
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)
    notes = _notes(paper, ours)
    console.print("", *notes, sep="\n", markup=False)
    if out is not None:
        frame = _frame(paper, ours)
        markdown = _markdown(paper, lines, notes)
        _write(out, frame, markdown)
        console.print(f"\n{short(out)}: this table", markup=False)


def _lines(paper: PaperTable, ours: Sequence[Row]) -> list[list[str]]:
    """Return the table as text, beginning with the line of headers."""
    lines = [["of", "method", *_column_names(paper)]]
    for method, numbers in paper.rows.items():
        lines.append([PAPER, method, *map(_number, numbers)])
    for row in ours:
        lines.append([OURS, row.method, *map(_text, row.cells)])
    return lines


def _number(number: float | None) -> str:
    """Return a number of the paper; a dash if the paper gives none."""
    return "–" if number is None else f"{number:.1f}"


def _column_names(paper: PaperTable) -> list[str]:
    return [column.name for column in paper.columns]


def _text(cell: Cell | None) -> str:
    """Return one of our numbers, marked if it deviates from the paper's protocol."""
    if cell is None:
        return ""
    mark = MARK if cell.deviations else ""
    return f"{cell.value:.1f}{mark}"


def _notes(paper: PaperTable, ours: Sequence[Row]) -> list[str]:
    """Return the notes below the table."""
    if not ours:
        results = dict.fromkeys(column.result for column in paper.columns)
        listed = ", ".join(results)
        return [f"no run has one of the results {listed} yet: deepcluster evaluate …"]
    notes = ["Columns name the paper's data sets; ours are on those of the results."]
    # Several cells of a result have one note, because one file lists all of their deviations.
    marked: dict[Path, Cell] = {}
    for row in ours:
        for cell in row.cells:
            if cell is not None and cell.deviations:
                marked[cell.result] = cell
    for result, cell in marked.items():
        number = len(cell.deviations)
        deviations = "1 deviation" if number == 1 else f"{number} deviations"
        place = f"{short(result)}/{cell.named_in}"
        notes.append(f"{MARK} {deviations} from the paper's protocol: {place}")
    return notes


def _markdown(paper: PaperTable, lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Return everything that is printed, as Markdown."""
    head, *rows = [_markdown_row(line) for line in lines]
    # Two columns of text, followed by numbers that are aligned to the right.
    alignments = ["---", "---", *["--:"] * len(paper.columns)]
    ruler = f"|{'|'.join(alignments)}|"
    above = [paper.title, "", paper.unit, ""]
    below = [note.replace("*", r"\*") for note in notes]
    return "\n".join([*above, head, ruler, *rows, "", *below, ""])


def _markdown_row(texts: Sequence[str]) -> str:
    cells: list[str] = []
    for text in texts:
        # A bar would end the cell, and an asterisk would begin emphasis.
        escaped = text.replace("|", r"\|").replace("*", r"\*")
        cells.append(printable(escaped))
    return f"| {' | '.join(cells)} |"


def _frame(paper: PaperTable, ours: Sequence[Row]) -> pd.DataFrame:
    """Return the table for programs: numbers, null if missing, and a column of deviations."""
    names = _column_names(paper)
    rows: list[dict[str, str | float | None]] = []
    for method, numbers in paper.rows.items():
        paper_values = dict(zip(names, numbers, strict=True))
        rows.append({"of": PAPER, "method": method, **paper_values})
    # Cells that a run has not measured are left out, and become null in the frame.
    for row in ours:
        values: dict[str, float] = {}
        deviations: list[str] = []
        for name, cell in zip(names, row.cells, strict=True):
            if cell is None:
                continue
            values[name] = cell.value
            if cell.deviations:
                deviations.append(f"{name}: {'; '.join(cell.deviations)}")
        text = "\n".join(deviations) or None  # null where a row follows the paper's protocol
        rows.append({"of": OURS, "method": row.method, "deviations": text, **values})
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
