"""What `deepcluster diff` prints: which clusters split, merged or moved between two tables.

The tables belong to two epochs of a run, to two runs, or are any two with clusters of the same
images.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from deepcluster_core.artifacts.file_names import LABELS
from deepcluster_core.artifacts.label_pairs import LabelPair, read_label_pair
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.outputs import whole_files, write_marked_frame
from deepcluster_core.clustering.changes import MOVED, SAME, Change, ChangeKind, Part, changes
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local, expanded
from deepcluster_core.metrics import nmi
from flows.show.cluster_names import named
from flows.show.terminal import console_for_tables, short
from stages.runs.cluster_names import ClusterName, names_at
from stages.runs.folder import RunFolder, epoch_of
from stages.runs.labelled_epochs import epochs_with_labels
from stages.runs.locate import existing_run, run_folder_of
from stages.runs.remote_runs import url_of

SUFFIXES = (".parquet", ".csv")
PARTS = ("came_from", "went_to")
"""Fields of a change that are lists of clusters with their shares."""
MEANINGS: dict[ChangeKind, str] = {
    "split": "several clusters after consist mostly of images of one before",
    "merged": "one cluster after holds most of each of several before",
    "new": "like no cluster before",
    "vanished": "like no cluster after",
    "moved": f"of the images in either, {100 * MOVED:.0f} to {100 * SAME:.0f} % are in both",
    "same": f"of the images in either, more than {100 * SAME:.0f} % are in both",
}


def show_diff(
    first: str,
    second: str | None,
    *,
    from_epoch: int | None,
    to_epoch: int | None,
    out: Path | None,
    limit: int,
) -> None:
    """Print how clusters changed: counts by kind of change, then the clusters that changed.

    Args:
        first: a run, the folder of a labels artifact, or a Parquet file with image_id and cluster.
        second: what `first` is compared with; None for a later epoch of the run `first`.
        from_epoch: epoch of `first`, if that is a run. None: the epoch before `to_epoch` if
            `second` is None, else the last one.
        to_epoch: epoch of `second`, or of `first` if `second` is None. None: the last one.
        out: file for the whole table, Parquet or CSV according to its suffix.
        limit: largest number of clusters to list; `out` has all of them.

    Raises:
        ConfigError: a run or epoch does not exist, an epoch is given for a table, or the suffix of
            `out` is unknown.
        ArtifactError: a table is missing or damaged, the tables share no image, or `out` exists.
    """
    # Check everything before the tables are read.
    for text in (first, second or ""):
        if url_of(text) is None:
            check_is_local(text)
    if out is not None and out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: must end in {' or '.join(SUFFIXES)}.")
    before, after = _tables(first, second, from_epoch, to_epoch)
    pair = read_label_pair(before, after)
    # The tables need not belong to a run, so k is the largest cluster that occurs, plus one.
    k_before = int(pair.before_N.max()) + 1
    k_after = int(pair.after_N.max()) + 1
    found = changes(pair.before_N, pair.after_N, k_before=k_before, k_after=k_after)
    agreement = nmi(pair.before_N, pair.after_N)
    # First what is compared, then counts, and then the clusters that changed.
    console = console_for_tables()
    console.print(f"{_name(before)} → {_name(after)}", markup=False)
    console.print(f"{_common(pair)}, NMI {agreement:.3f}\n")
    console.print(_counts(found))
    console.print()
    changed = [change for change in found if change.kind != "same"]
    _list(changed, limit, console)
    _print_names(before, after, found, console)
    if out is not None:
        _write(out, found)
        num_rows = len(found)
        console.print(f"\n{short(out)}: all {num_rows:,} rows", markup=False)


def _tables(
    first: str, second: str | None, from_epoch: int | None, to_epoch: int | None
) -> tuple[Path, Path]:
    """Return the two label tables to compare, as `show_diff` finds them."""
    if second is not None:
        before = _table(first, from_epoch, "--from")
        after = _table(second, to_epoch, "--to")
        return before, after
    if (table := _given_table(first)) is not None:
        raise ConfigError(
            f"{table}: is one table, and a diff needs two.\n"
            f"  Fix: name another one after it, or give a run, which has several epochs."
        )
    # Both tables are from one run: by default its last epoch, and the one before that.
    run = existing_run(run_folder_of(Path(first)))
    until = _epoch(run, to_epoch, "--to")
    if from_epoch is None:
        since = _epoch_before(run, until)
    else:
        since = _epoch(run, from_epoch, "--from")
    return _labels(run, since), _labels(run, until)


def _epoch_before(run: RunFolder, until: int) -> int:
    """Return the latest epoch with labels before another one; raise if it is the first."""
    epochs = epochs_with_labels(run)
    earlier = [epoch for epoch in epochs if epoch < until]
    if not earlier:
        fix = "give a second run, or train more epochs"
        if len(epochs) > 1:
            fix = f"choose two of its epochs {_listed(epochs)} with --from and --to; or {fix}"
        raise ConfigError(
            f"{short(run.root)}: has no labels before epoch {until} to compare with.\n  Fix: {fix}."
        )
    return earlier[-1]


def _labels(run: RunFolder, epoch: int) -> Path:
    return run.artifact("labels", epoch) / LABELS


def _table(given: str, epoch: int | None, option: str) -> Path:
    """Return the label table that `given` refers to: of a run's epoch, an artifact, or a file."""
    table = _given_table(given)
    if table is None:
        run = existing_run(run_folder_of(Path(given)))
        number = _epoch(run, epoch, option)
        return _labels(run, number)
    if epoch is not None:
        raise ConfigError(
            f"{option} {epoch}: {given} is a table, and has no epochs.\n  Fix: leave {option} out."
        )
    return table


def _given_table(given: str) -> Path | None:
    """Return the table if `given` is a file or a labels artifact; None if it must be a run."""
    path = expanded(given, Path())
    if path.is_file():
        return path
    if not (path / LABELS).exists():
        return None
    read_manifest(path)  # raises if the artifact is unfinished
    return path / LABELS


def _name(table: Path) -> str:
    """Return a table's name for people: for a run's table its folder, which names the epoch."""
    if table.name == LABELS:
        return short(table.parent)
    return short(table)


def _epoch(run: RunFolder, wanted: int | None, option: str) -> int:
    """Return the wanted epoch, or the last one if `wanted` is None; raise if it has no labels."""
    epochs = epochs_with_labels(run)
    if not epochs:
        raise ConfigError(f"{short(run.root)}: has no labels yet.\n  Fix: run it first.")
    if wanted is None:
        return epochs[-1]
    if wanted not in epochs:
        place = short(run.root)
        known = _listed(epochs)
        raise ConfigError(
            f"{option} {wanted}: {place} has labels of epoch {known}.\n  Fix: name one of them."
        )
    return wanted


def _listed(epochs: list[int]) -> str:
    """Return epochs as text: `0 to 9` if none is missing, else a list of them."""
    first = epochs[0]
    last = epochs[-1]
    # Epochs are missing if only some are kept.
    is_complete = len(epochs) == last - first + 1
    if is_complete and len(epochs) > 2:
        return f"{first} to {last}"
    return ", ".join(map(str, epochs))


def _common(pair: LabelPair) -> str:
    """Return as text how many images are compared, and how many each table has."""
    common = len(pair.before_N)
    text = f"{common:,} images"
    if not common == pair.num_before == pair.num_after:
        text += f" in common, of {pair.num_before:,} and {pair.num_after:,}"
    if pair.joined_on == "path":
        text += ", found by their path"
    return text


def _counts(found: list[Change]) -> Table:
    """Return a table of the number of clusters by kind of change.

    The column of images counts those that the clusters hold after the change, or before it if the
    clusters vanished.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for header in ("clusters\nbefore", "clusters\nafter", "images"):
        table.add_column(header, justify="right")
    table.add_column("")
    for kind, meaning in MEANINGS.items():
        # Sizes by cluster, because several changes of a kind can concern one cluster.
        before: dict[int, int] = {}
        after: dict[int, int] = {}
        for change in found:
            if change.kind != kind:
                continue
            if change.previous is not None:
                before[change.previous] = change.previous_size
            if change.cluster is not None:
                after[change.cluster] = change.size
        sizes = after or before
        num_before = f"{len(before):,}"
        num_after = f"{len(after):,}"
        num_images = f"{sum(sizes.values()):,}"
        table.add_row(kind, num_before, num_after, num_images, meaning)
    return table


def _list(found: list[Change], limit: int, console: Console) -> None:
    """Print a row for each change."""
    if not found:
        console.print("no cluster has changed")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for header in ("cluster\nbefore", "\nimages", "cluster\nafter", "\nimages", "in\nboth"):
        table.add_column(header, justify="right")
    table.add_column("images went to\n(share of before)")
    table.add_column("images came from\n(share of after)")
    # A dash stands for a cluster that does not exist, such as the one before a new cluster.
    for change in found[:limit]:
        before = _cluster(change.previous, change.previous_size)
        after = _cluster(change.cluster, change.size)
        shared = f"{change.shared:,}" if change.shared else "–"
        went_to = _parts(change.went_to)
        came_from = _parts(change.came_from)
        table.add_row(change.kind, *before, *after, shared, went_to, came_from)
    console.print(table)
    num_hidden = len(found) - limit
    if num_hidden > 0:
        console.print(f"… and {num_hidden:,} more; --limit {len(found)} shows all")


def _print_names(before: Path, after: Path, found: list[Change], console: Console) -> None:
    """Print the names of clusters that the changes mention, on either side."""
    previous = {change.previous for change in found}
    present = {change.cluster for change in found}
    for title, table, mentioned in (("before", before, previous), ("after", after, present)):
        names = _names(table)
        texts = [named(cluster, names) for cluster in names if cluster in mentioned]
        if texts:
            console.print(f"\nnames {title}: {', '.join(texts)}", markup=False)


def _names(table: Path) -> dict[int, ClusterName]:
    """Return the names of a table's clusters, if it is the table of a run's epoch."""
    epoch = epoch_of(table.parent.name)
    run = RunFolder(table.absolute().parent.parent.parent)
    if table.name != LABELS or epoch is None or not run.config.exists():
        return {}
    return names_at(run, epoch)


def _cluster(cluster: int | None, size: int) -> tuple[str, str]:
    """Return the cells for a cluster and its number of images; dashes if there is none."""
    if cluster is None:
        return "–", "–"
    return str(cluster), f"{size:,}"


def _parts(parts: tuple[Part, ...]) -> str:
    """Return clusters with their shares in percent."""
    if not parts:
        return "–"
    texts: list[str] = []
    for part in parts:
        percent = 100 * part.share
        texts.append(f"{part.cluster}: {percent:.0f} %")
    return ", ".join(texts)


def _write(out: Path, found: list[Change]) -> None:
    """Write all changes. In a CSV file, the lists of parts are JSON."""
    frame = pd.DataFrame([_plain(change) for change in found])
    frame = frame.astype({"cluster": "Int64", "previous": "Int64"})  # both can be null
    with whole_files(out) as (part,):
        if out.suffix == ".parquet":
            write_marked_frame(part, frame, {"command": "diff"})
        else:
            for name in PARTS:
                frame[name] = frame[name].map(json.dumps)
            frame.to_csv(part, index=False)


def _plain(change: Change) -> dict[str, Any]:
    """Return a change as a row; its tuples become lists, as JSON and Parquet have them."""
    row = asdict(change)
    for name in PARTS:
        row[name] = list(row[name])
    return row
