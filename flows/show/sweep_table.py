"""sweep.parquet and sweep.png: the runs of a sweep side by side."""

from io import BytesIO

import pandas as pd

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.mirrored import publish_small
from deepcluster_core.artifacts.tables import read_metrics
from flows.show.sweep_picture import draw_sweep
from flows.show.sweep_values import Evaluated
from stages.runs.sweep_plan import Sweep


def write_comparison(sweep: Sweep, values: Evaluated) -> bool:
    """Write the table and the picture of a finished sweep, unless they are up to date.

    Args:
        sweep: the sweep.
        values: results of the evaluations of its runs.

    Returns:
        Whether anything was written.

    Raises:
        ArtifactError: an epoch has no metrics.
    """
    table = tabulate(sweep, values)
    data = table.to_parquet(index=False, write_page_checksum=True)
    both_exist = sweep.picture.exists() and sweep.table.exists()
    if both_exist and sweep.table.read_bytes() == data:
        return False
    drawn = BytesIO()
    draw_sweep(table, values.scores, drawn, axis=sweep.axis)
    write_atomically(sweep.picture, drawn.getvalue())
    write_atomically(sweep.table, data)  # last, so that the picture is never older than the table
    for path in (sweep.picture, sweep.table):
        publish_small(path)
    return True


def tabulate(sweep: Sweep, values: Evaluated) -> pd.DataFrame:
    """Return one row for each value and epoch: the metrics, and the `seconds` of all four stages.

    The first column is the varied key. The seconds of an artifact that was made once for all
    runs are counted for each of them. Then follows a
    column for each number of the evaluations, such as `voc-classification ap` for the network of
    that run and epoch, and `voc-classification ap random`; unknown numbers are null.

    Raises:
        ArtifactError: an epoch has no metrics.
    """
    rows: list[dict[str, float | int | str | None]] = []
    for member in sweep.members:
        for epoch in range(sweep.epochs):
            folder = member.folder.artifact("metrics", epoch)
            row = read_metrics(folder)
            # For k, the requested one replaces that of a clusterer which may have found another.
            row[sweep.axis] = member.value
            # Without training, train_s is None.
            seconds_before = row["extract_s"] + row["cluster_s"] + (row["train_s"] or 0.0)
            row["seconds"] = seconds_before + read_manifest(folder).seconds
            rows.append({sweep.axis: member.value, "epoch": epoch} | row)
    table = pd.DataFrame(rows)
    # A column that holds only None has no type yet.
    is_unknown = table.isna().all()
    unknown = table.columns[is_unknown]
    table = table.astype(dict.fromkeys(unknown, float))
    return table.join(values.by_row, on=[sweep.axis, "epoch"])
