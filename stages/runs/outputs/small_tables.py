"""Write some images of a run to a Parquet or CSV table, or their paths to a list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.about_files import files_of_table, write_about
from deepcluster_core.artifacts.image_tables import image_table
from deepcluster_core.artifacts.outputs import check_free, whole_files
from stages.runs.outputs.origin import origin
from stages.runs.past_run import PastRun

SUFFIXES = (".parquet", ".csv", ".txt")


def check_small_table(past: PastRun, out: Path) -> None:
    """Check where a table is to go, before its rows are computed.

    Raises:
        ConfigError: `out` has an unknown suffix, or lies among the artifacts of the run.
        ArtifactError: `out`, or the file beside a CSV table, exists.
    """
    past.check_out(out, SUFFIXES)
    check_free(*files_of_table(out))


def write_small_table(
    past: PastRun,
    out: Path,
    epoch: int,
    *,
    command: str,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Write images that are in memory.

    Args:
        past: the run.
        out: a .parquet or .csv table; or a .txt file, which gets the paths alone, a line each.
        epoch: epoch of the clusters.
        command: the command that found the images.
        columns: names of the columns; one is `path`.
        rows: the values of each image.

    Raises:
        ArtifactError: `out` exists.
    """
    about = origin(past, out, labels=past.whole("labels", epoch)) | {"command": command}
    values = [[*column] for column in zip(*rows, strict=True)] or [[] for _ in columns]
    by_column = dict(zip(columns, values, strict=True))
    with whole_files(*files_of_table(out)) as (part, *about_part):
        if out.suffix == ".txt":
            text = "".join(f"{path}\n" for path in by_column["path"])
            part.write_text(text, encoding="utf-8")
            return
        for path in about_part:
            write_about(path, about)
        with image_table(part, columns, about, suffix=out.suffix) as table:
            table.add(by_column)
