"""sweep.parquet and sweep.png: the runs of a sweep side by side."""

from io import BytesIO

import pandas as pd

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from flows.show.sweep_picture import draw_sweep
from flows.show.sweep_values import Evaluated
from stages.runs.sweep_plan import Sweep


def write_comparison(sweep: Sweep, values: Evaluated) -> bool:
    """Write the table and the picture of a sweep whose runs are done, unless they are there.

    Args:
        sweep: whose.
        values: what evaluations say about its runs.

    Returns:
        Whether anything was written.

    Raises:
        ArtifactError: an epoch is not scored.
    """
    table = tabulate(sweep, values)
    data = table.to_parquet(index=False, write_page_checksum=True)
    if sweep.picture.exists() and sweep.table.exists() and sweep.table.read_bytes() == data:
        return False
    drawn = BytesIO()
    draw_sweep(table, values.table, drawn)
    write_atomically(sweep.picture, drawn.getvalue())
    write_atomically(sweep.table, data)  # last: the picture is never older
    return True


def tabulate(sweep: Sweep, values: Evaluated) -> pd.DataFrame:
    """Return one row for each k and epoch: the metrics, and `seconds` of all four stages.

    The seconds of what was made once for all k count for each of them. A column for each number of
    the evaluations follows, null where it is not known: `voc-classification ap` of the network of
    that k and epoch, `voc-classification ap random`.

    Raises:
        ArtifactError: an epoch is not scored.
    """
    rows: list[dict[str, float | int | str | None]] = []
    for member in sweep.members:
        for epoch in range(sweep.epochs):
            folder = member.folder.artifact("metrics", epoch)
            row = read_metrics(folder)
            row["k"] = member.k  # as asked for; a clusterer of one's own may have found others
            stages = row["extract_s"] + row["cluster_s"] + row["train_s"]
            row["seconds"] = stages + read_manifest(folder).seconds  # and of score itself
            rows.append({"k": member.k, "epoch": epoch} | row)
    table = pd.DataFrame(rows)
    unknown = table.columns[table.isna().all()]  # nothing but None, of no type so far
    table = table.astype(dict.fromkeys(unknown, float))
    return table.join(values.by_row, on=["k", "epoch"])
