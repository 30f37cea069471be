"""What `deepcluster show` prints, and what a run prints when it ends."""

import shutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deepcluster_core.artifacts.manifest import Condition, Manifest, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_cluster, read_metrics
from deepcluster_core.errors import ConfigError
from deepcluster_core.health import Sign, signs
from deepcluster_core.text import (
    duration,
    printable,
    python_text,
    readable_size,
    shell_words,
    three_decimals,
)
from stages.runs.folder import EPOCH_KINDS, RunFolder
from stages.runs.recipe import Recipe, load_own_recipe
from stages.runs.states import STALE, ArtifactState, states_of
from stages.runs.sweep_plan import SWEEP, read_sweep, run_of_k
from stages.runs.terminal import plain_console

GIB = 1 << 30
WIDTH = 100
"""Columns to which text is wrapped; most terminals are at least as wide."""
LEARNT = ("epoch", "loss", "NMI\nbefore", "NMI\nlabels")
"""Column headers for what the network learnt in an epoch."""
COST = (
    *("\n   s", "extract\nimages/s", "\nGiB"),
    *("\n   s", "cluster\nimages/s", "\nGiB"),
    *("\n   s", "train\nimages/s", "\nGiB"),
    *("score\n   s", "\nGiB"),
)
"""Column headers for the cost of an epoch's stages: time, images per second and peak memory."""
COMPARED = (
    *("k", "loss", "  ln k", "NMI\nbefore", "NMI\nlabels"),
    *("effective\nclusters", "   empty\nclusters", "    all\n epochs"),
)
"""Column headers of the table that compares the runs of a sweep."""
STYLES = {
    Condition.WHOLE: "green",
    Condition.PRUNED: "dim",
    STALE: "yellow",
    Condition.MISSING: "dim",
    Condition.UNFINISHED: "yellow",
    Condition.DAMAGED: "bold red",
    Condition.UNREADABLE: "bold red",
}


def show_run(folder: RunFolder, epoch: int | None) -> None:
    """Print what the epochs of a run learnt and cost, and then the state of every artifact.

    Args:
        folder: folder of the run.
        epoch: the only epoch to print; None prints all.

    Raises:
        ConfigError: the run has no such epoch.
    """
    console = console_for_tables()
    recipe, states = load_own_recipe(folder.config), states_of(folder)
    if epoch is not None:
        _check_epoch(folder, epoch, (s.epoch for s in states if s.epoch is not None))
    console.print(
        f"{short(folder.root)}: {recipe.network.name}, k = {_clusters(recipe, states)}, "
        f"seed {recipe.seed}, {recipe.epochs} epochs asked for\n"
        f"source {printable(str(recipe.dataset.source))}\n",
        markup=False,
    )
    by_epoch: dict[int | None, dict[str, ArtifactState]] = {}
    for state in states:
        by_epoch.setdefault(state.epoch, {})[state.kind] = state
    images = by_epoch.pop(None)["images"]
    console.print("images  ", _state_cell(images), _cost_of_images(images), end="\n\n")
    artifacts = Table("epoch", *EPOCH_KINDS, box=None, pad_edge=False)
    rows: list[tuple[str, ...]] = []
    for number, found in by_epoch.items():
        if epoch in (None, number):
            rows.append((str(number), *_scores(found["metrics"]), *_costs(found)))
            artifacts.add_row(str(number), *(_state_cell(found[kind]) for kind in EPOCH_KINDS))
    for table in (*_curves(rows, console), artifacts):
        console.print(table)
        console.print()
    if any("+" in cell for row in rows for cell in row):
        console.print("GiB: peak of main memory + peak of the GPU's", end="\n\n")
    _print_evaluations(folder, console)
    _print_signs((state for state in states if epoch in (None, state.epoch)), console)
    for state in states:
        _print_problem(state, console)


def _check_epoch(folder: RunFolder, epoch: int, existing: Iterable[int]) -> None:
    """Raise ConfigError if an epoch comes after the last one that exists."""
    last = max(existing, default=-1)
    if epoch <= last:
        return
    place = short(folder.root)
    if last < 0:
        raise ConfigError(
            f"--epoch {epoch}: {place} has no epoch yet.\n  Fix: {go_on(folder)} goes on with it."
        )
    epochs = f"epochs 0 to {last}" if last else "epoch 0 alone"
    raise ConfigError(f"--epoch {epoch}: {place} has {epochs} so far.\n  Fix: name one of them.")


def _clusters(recipe: Recipe, states: list[ArtifactState]) -> str:
    """Return k as text; if it is auto, with the number of clusters of the latest epoch."""
    k = str(recipe.cluster.k)
    labels = [state.folder for state in states if state.kind == "labels" and state.key]
    return f"{k} ({read_manifest(labels[-1]).facts['k']})" if k == "auto" and labels else k


def _print_evaluations(folder: RunFolder, console: Console) -> None:
    for path in sorted((folder.root / "evaluations").glob("[!_]*")):
        kind = f"evaluations/{path.name}"
        for epoch in folder.epochs(kind):
            condition, _ = inspect(folder.artifact(kind, epoch))
            place = short(folder.artifact(kind, epoch))
            console.print(f"{place}  {condition}", markup=False)


def _print_problem(state: ArtifactState, console: Console) -> None:
    if state.condition not in (Condition.WHOLE, Condition.PRUNED):
        reason = printable(state.reason)
        console.print(f"{short(state.folder)}: {state.condition}: {reason}", markup=False)


def show_cluster(folder: RunFolder, epoch: int | None, cluster: int, limit: int) -> None:
    """Print the images of a cluster, nearest to its centroid first.

    Raises:
        ConfigError: `epoch` is None, or there is no such epoch or cluster.
        ArtifactError: the epoch has no labels.
    """
    if epoch is None:
        raise ConfigError("--cluster: cluster ids mean nothing without an epoch.\n  Fix: --epoch N")
    _check_epoch(folder, epoch, folder.epochs("labels"))
    labels = folder.artifact("labels", epoch)
    k = read_manifest(labels).facts["k"]
    if cluster >= k:
        raise ConfigError(f"--cluster {cluster}: epoch {epoch} has clusters 0 to {k - 1}.")
    rows = read_cluster(labels, cluster)
    console = console_for_tables()
    console.print(f"epoch {epoch}, cluster {cluster}: {len(rows):,} images, nearest first\n")
    console.print(f"{'distance':>8}  {'image_id':>9}  path")
    for row in rows[:limit]:
        line = f"{row['distance']:8.4f}  {row['image_id']:9}  {printable(row['path'])}"
        console.print(line, markup=False)
    if len(rows) > limit:
        console.print(f"… and {len(rows) - limit:,} more; --limit {len(rows)} shows all")


def show_sweep(folder: Path) -> None:
    """Print a row for each k of a sweep: the metrics of the last epoch, and the time of all epochs.

    Args:
        folder: folder of the sweep.

    Raises:
        ArtifactError: the table of the sweep is missing or damaged.
    """
    found, sweep = read_sweep(folder), short(folder)
    last = max(row["epoch"] for row in found)
    seconds: defaultdict[int, float] = defaultdict(float)
    for row in found:
        seconds[row["k"]] += row["seconds"]
    rows = [
        (
            f"{row['k']:,}",
            *(three_decimals(row[name]) for name in ("loss", "ln_k", "nmi_previous", "nmi_labels")),
            f"{row['effective_clusters']:,.1f}",
            f"{row['empty_clusters']:,.0f}",
            duration(seconds[row["k"]]),
        )
        for row in found
        if row["epoch"] == last
    ]
    console = console_for_tables()
    console.print(f"\n{sweep}: after {last + 1} epoch{'s' if last else ''}\n", markup=False)
    console.print(_table(COMPARED, rows))
    console.print(
        f"\n  {sweep}/sweep.png     what k does\n"
        f"  pd.read_parquet({python_text(f'{sweep}/{SWEEP}')})     all metrics of all epochs\n"
        f"  {program_name()} show {shell_path(folder / run_of_k(max(seconds)))}"
        f"     one of the runs",
        markup=False,
    )


def farewell(folder: RunFolder, *, epochs: int, seconds: float) -> str:
    """Return the text that ends a run: what it has made, and which commands to try next."""
    run, typed, program = short(folder.root), shell_path(folder.root), program_name()
    last = epochs - 1
    features = short(folder.artifact("features", last))
    return f"""
{run}: {epochs} epoch{"s" if epochs > 1 else ""}, in {duration(seconds)}
  {run}/report.html      curves and clusters, to look at in a browser
  pd.read_parquet({python_text(f"{run}/labels")})      the cluster of every image at every epoch
  pd.read_parquet({python_text(f"{run}/metrics")})     the learning curve
  zarr.open_array({python_text(f"{features}/features.zarr")})     (N, D), row i is image_id i

Next:
  {program} show {typed}
  {program} show {typed} --epoch {last} --cluster 0
  {program} stage cluster --run {typed} --epoch {last} --set cluster.k=50 --out runs/k50"""


def console_for_tables() -> Console:
    """Return a console with the width of the terminal; for a pipe or a file, wide enough."""
    return plain_console(width=None if sys.stdout.isatty() else 160)


def _state_cell(state: ArtifactState) -> Text:
    if state.condition == Condition.MISSING:
        return Text("–", style="dim")
    size_and_key = f"{readable_size(state.bytes)} {state.key[:8]}" if state.bytes else state.key[:8]
    condition = "" if state.condition == Condition.WHOLE else state.condition
    text = " ".join(part for part in (size_and_key, condition) if part)
    return Text(text, style=STYLES[state.condition])


def _curves(rows: list[tuple[str, ...]], console: Console) -> list[Table]:
    """Return one table of what epochs learnt and cost, or two if one is wider than the console.

    Args:
        rows: cells under `LEARNT`, followed by those under `COST`.
        console: console that the tables are printed on.
    """
    whole = _table((*LEARNT, *COST), rows)
    unlimited = console.options.update(max_width=10_000)
    if console.measure(whole, options=unlimited).maximum <= console.width:
        return [whole]
    split = len(LEARNT)
    learnt = _table(LEARNT, [row[:split] for row in rows])
    return [learnt, _table((LEARNT[0], *COST), [(row[0], *row[split:]) for row in rows])]


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Return a table of numbers, aligned to the right."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _scores(metrics: ArtifactState) -> Iterator[str]:
    """Yield the cells of an epoch under `LEARNT`, without the epoch's number."""
    row = _row(metrics)
    for column in ("loss", "nmi_previous", "nmi_labels"):
        yield three_decimals(row.get(column))


def _print_signs(states: Iterable[ArtifactState], console: Console) -> None:
    """Print each sign that the network learns nothing, as last seen, and what helps against it."""
    last: dict[str, Sign] = {}
    epochs: dict[str, list[int]] = {}
    for state in states:
        row = _row(state) if state.kind == "metrics" else {}
        if not row:
            continue
        for sign in signs(row):
            last[sign.name] = sign
            epochs.setdefault(sign.name, []).append(state.epoch or 0)
    for name, sign in last.items():
        seen = epochs[name]
        where = f"epoch {seen[0]}" if len(seen) == 1 else f"{len(seen)} epochs, last {seen[-1]}"
        for begin, text in ((f"{name} ({where})", sign.sentence), ("  What helps", sign.advice)):
            paragraph = textwrap.fill(f"{begin}: {text}", WIDTH, subsequent_indent="    ")
            console.print(paragraph, markup=False)


def _row(metrics: ArtifactState) -> dict[str, Any]:
    """Return the metrics of an epoch; an empty dictionary if it has none."""
    is_readable = metrics.condition in (Condition.WHOLE, STALE)
    return read_metrics(metrics.folder) if is_readable else {}


def _costs(found: dict[str, ArtifactState]) -> Iterator[str]:
    """Yield the cells of an epoch under `COST`: the cost of each stage when it ran."""
    for kind in EPOCH_KINDS:
        manifest = read_manifest(found[kind].folder) if found[kind].key else None
        yield "–" if manifest is None else _seconds(manifest.seconds)
        if kind != "metrics":  # images per second say nothing about score
            yield "–" if manifest is None else f"{manifest.rows / manifest.seconds:,.0f}"
        yield "–" if manifest is None else _peak(manifest)


def _cost_of_images(images: ArtifactState) -> str:
    if not images.key:
        return ""
    manifest = read_manifest(images.folder)
    return (
        f" {manifest.rows:,} images in {_seconds(manifest.seconds)} s, "
        f"{manifest.rows / manifest.seconds:,.0f} images/s, {_peak(manifest)} GiB"
    )


def _peak(manifest: Manifest) -> str:
    """Return the peak of main memory in GiB and, if a GPU was used, `+` the peak of its memory."""
    main, device = manifest.peak_memory_bytes, manifest.peak_device_bytes
    return f"{main / GIB:.2f}" + (f"+{device / GIB:.2f}" if device else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def short(path: Path) -> str:
    """Return a path as people would type it in the working folder, for display."""
    return printable(str(_from_here(path)))


def shell_path(path: Path) -> str:
    """Return a path as people would type it into a shell in the working folder, with quotes."""
    typed = str(_from_here(path))
    # A command would take a leading dash for an option.
    return shell_words(f"./{typed}" if typed.startswith("-") else typed)


def go_on(folder: RunFolder) -> str:
    """Return the command that continues a run."""
    run = shell_path(folder.root)
    return f"deepcluster run {shell_path(folder.config)} --run {run}"


def _from_here(path: Path) -> Path:
    here, full = Path.cwd(), path.absolute()
    return full.relative_to(here) if full.is_relative_to(here) else full


def program_name() -> str:
    """Return how to call this command: by its name, or by its path if a shell cannot find it."""
    return "deepcluster" if shutil.which("deepcluster") else shell_path(Path(sys.argv[0]))
