"""What `deepcluster show` prints about a run, and what a run prints when it ends."""

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deepcluster_core.artifacts.file_names import SKIPPED, in_clustering
from deepcluster_core.artifacts.manifest import Condition, Manifest, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_cluster, read_metrics
from deepcluster_core.errors import ConfigError
from deepcluster_core.health import Sign, signs
from deepcluster_core.text import (
    printable,
    readable_size,
    share,
    three_decimals,
)
from flows.show.ranks import print_ranks, remark_on
from flows.show.terminal import (
    console_for_tables,
    go_on,
    short,
    table_of_numbers,
)
from stages.runs.cluster_names import names_at
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_own_recipe
from stages.runs.states import STALE, ArtifactState, states_of

Cells = tuple[str, ...]
StateByKind = dict[str, ArtifactState]

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
        ConfigError: the run does not have the epoch.
    """
    console = console_for_tables()
    recipe = load_own_recipe(folder.config)
    states = states_of(folder)
    images, by_epoch = _by_epoch(states)
    if epoch is not None:
        _check_epoch(folder, epoch, by_epoch)
    # What the run is made from.
    name = short(folder.root)
    k = _clusters(recipe, states)
    source = printable(str(recipe.dataset.source))
    console.print(
        f"{name}: {recipe.network.name}, k = {k}, seed {recipe.seed}, "
        f"{recipe.epochs} epochs asked for\nsource {source}\n",
        markup=False,
    )
    console.print("images  ", _state_cell(images), _cost_of_images(images), end="\n\n")
    # A row for each epoch in each of the tables.
    artifacts = Table("epoch", *EPOCH_KINDS, box=None, pad_edge=False)
    rows: list[Cells] = []
    for number, found in by_epoch.items():
        if epoch not in (None, number):
            continue
        learnt = _scores(found["metrics"])
        costs = _costs(found)
        rows.append((str(number), *learnt, *costs))
        cells = [_state_cell(found.get(kind)) for kind in EPOCH_KINDS]
        artifacts.add_row(str(number), *cells)
    _print_tables(rows, artifacts, console)
    print_ranks(
        {number: found for number, found in by_epoch.items() if epoch in (None, number)}, console
    )
    _print_evaluations(folder, console)
    # Problems of all epochs are printed last, where they are seen.
    shown = [state for state in states if epoch in (None, state.epoch)]
    _print_signs(shown, console)
    for state in states:
        _print_problem(state, console)


def _by_epoch(
    states: list[ArtifactState],
) -> tuple[ArtifactState, dict[int, StateByKind]]:
    """Return the state of the images, and those of the other artifacts by epoch and kind."""
    by_kind = {state.kind: state for state in states if state.epoch is None}
    by_epoch: defaultdict[int, StateByKind] = defaultdict(dict)
    for state in states:
        if state.epoch is not None:
            by_epoch[state.epoch][state.kind] = state
    return by_kind["images"], by_epoch


def _print_tables(rows: list[Cells], artifacts: Table, console: Console) -> None:
    """Print what epochs learnt and cost, then their artifacts, then the meaning of a plus sign."""
    for table in (*_curves(rows, console), artifacts):
        console.print(table)
        console.print()
    # Only the memory of runs on a GPU has a plus sign.
    if any("+" in "".join(row) for row in rows):
        console.print("GiB: peak of main memory + peak of the GPU's", end="\n\n")


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
    if last == 0:
        epochs = "epoch 0 alone"
    else:
        epochs = f"epochs 0 to {last}"
    raise ConfigError(f"--epoch {epoch}: {place} has {epochs} so far.\n  Fix: name one of them.")


def _clusters(recipe: Recipe, states: list[ArtifactState]) -> str:
    """Return k as text; if it is a word, with the number of clusters of the latest epoch."""
    all_k = recipe.cluster.all_k
    k = ", ".join(map(str, all_k))
    if all(isinstance(one, int) for one in all_k):
        return k
    labels: list[Path] = []
    for state in states:
        if state.kind == "labels" and state.key:
            labels.append(state.folder)
    if not labels:
        return k
    # The states are in the order of epochs, so the last labels are the latest.
    latest = read_manifest(labels[-1])
    numbers = [str(latest.facts[in_clustering("k", number)]) for number in range(len(all_k))]
    return f"{k} ({', '.join(numbers)})"


def _print_evaluations(folder: RunFolder, console: Console) -> None:
    evaluations = folder.root / "evaluations"
    # Names that begin with an underscore are not results.
    for path in sorted(evaluations.glob("[!_]*")):
        kind = f"evaluations/{path.name}"
        for epoch in folder.epochs(kind):
            artifact = folder.artifact(kind, epoch)
            condition, _ = inspect(artifact)
            parts = [short(artifact), str(condition)]
            if condition == Condition.WHOLE:
                parts.append(remark_on(read_manifest(artifact)))
            console.print("  ".join(parts).rstrip(), markup=False)


def _print_problem(state: ArtifactState, console: Console) -> None:
    # Pruned artifacts were deleted on purpose.
    if state.condition not in (Condition.WHOLE, Condition.PRUNED):
        artifact = short(state.folder)
        reason = printable(state.reason)
        console.print(f"{artifact}: {state.condition}: {reason}", markup=False)


def cluster_members(folder: RunFolder, epoch: int | None, cluster: int) -> list[dict[str, Any]]:
    """Return image_id, path and distance of a cluster's images, nearest to its centroid first.

    Raises:
        ConfigError: `epoch` is None, or the epoch or cluster does not exist.
        ArtifactError: the epoch has no labels.
    """
    if epoch is None:
        raise ConfigError("--cluster: cluster ids mean nothing without an epoch.\n  Fix: --epoch N")
    _check_epoch(folder, epoch, folder.epochs("labels"))
    labels = folder.artifact("labels", epoch)
    k = read_manifest(labels).facts["k"]
    if cluster >= k:
        raise ConfigError(
            f"--cluster {cluster}: epoch {epoch} has clusters 0 to {k - 1}.\n"
            f"  Fix: name one of them."
        )
    return read_cluster(labels, cluster, folder.images(load_own_recipe(folder.config).images))


def show_cluster(folder: RunFolder, epoch: int | None, cluster: int, limit: int) -> None:
    """Print the images of a cluster, nearest to its centroid first.

    Raises:
        ConfigError: `epoch` is None, or the epoch or cluster does not exist.
        ArtifactError: the epoch has no labels.
    """
    rows = cluster_members(folder, epoch, cluster)
    assert epoch is not None, "cluster_members needs one, too"
    console = console_for_tables()
    name = _name_of(folder, epoch, cluster)
    title = f"epoch {epoch}, cluster {cluster}{name}: {len(rows):,} images, nearest first\n"
    console.print(title, markup=False)
    console.print(f"{'distance':>8}  {'image_id':>9}  path")
    for row in rows[:limit]:
        path = printable(row["path"])
        line = f"{row['distance']:8.4f}  {row['image_id']:9}  {path}"
        console.print(line, markup=False)  # a path can look like markup
    num_hidden = len(rows) - limit
    if num_hidden > 0:
        console.print(f"… and {num_hidden:,} more; --limit {len(rows)} shows all")


def _name_of(folder: RunFolder, epoch: int, cluster: int) -> str:
    """Return a cluster's name in brackets, and how well it is matched; empty if it has none."""
    found = names_at(folder, epoch).get(cluster)
    if found is None:
        return ""
    name = printable(found.name)
    if found.given_at == epoch:
        return f" ({name})"
    return f" ({name}, named at epoch {found.given_at}, which {share(found.share)} comes from)"


def _state_cell(state: ArtifactState | None) -> Text:
    """Return the size, the key and, unless it is whole, the condition of an artifact.

    An epoch without training has no checkpoint; its state is None.
    """
    if state is None or state.condition == Condition.MISSING:
        return Text("–", style="dim")
    parts: list[str] = []
    if state.bytes:
        parts.append(readable_size(state.bytes))
    if state.key:
        parts.append(state.key[:8])
    if state.condition != Condition.WHOLE:
        parts.append(state.condition)
    return Text(" ".join(parts), style=STYLES[state.condition])


def _curves(rows: list[Cells], console: Console) -> list[Table]:
    """Return one table of what epochs learnt and cost, or two if one is wider than the console.

    Args:
        rows: cells under `LEARNT`, followed by those under `COST`.
        console: console that the tables are printed on.
    """
    whole = table_of_numbers((*LEARNT, *COST), rows)
    # Measured without a limit, because rich would shrink the table to the console's width.
    unlimited = console.options.update(max_width=10_000)
    width = console.measure(whole, options=unlimited).maximum
    if width <= console.width:
        return [whole]
    split = len(LEARNT)
    learnt = [row[:split] for row in rows]
    # The second table begins with the epoch too, so that each can be read alone.
    epoch_header = LEARNT[0]
    costs = [(row[0], *row[split:]) for row in rows]
    return [
        table_of_numbers(LEARNT, learnt),
        table_of_numbers((epoch_header, *COST), costs),
    ]


def _scores(metrics: ArtifactState) -> Iterator[str]:
    """Yield the cells of an epoch under `LEARNT`, without the epoch's number."""
    row = _row(metrics)
    for column in ("loss", "nmi_previous", "nmi_labels"):
        yield three_decimals(row.get(column))


def _print_signs(states: Iterable[ArtifactState], console: Console) -> None:
    """Print each sign that the network learns nothing, as last seen, and what helps against it."""
    last: dict[str, Sign] = {}
    epochs: defaultdict[str, list[int]] = defaultdict(list)
    for state in states:
        if state.kind != "metrics" or state.epoch is None:
            continue
        row = _row(state)
        if not row:
            continue
        for sign in signs(row):
            last[sign.name] = sign
            epochs[sign.name].append(state.epoch)
    # A sign is printed once, however many epochs show it.
    for name, sign in last.items():
        seen = epochs[name]
        if len(seen) == 1:
            where = f"epoch {seen[0]}"
        else:
            where = f"{len(seen)} epochs, last {seen[-1]}"
        problem = f"{name} ({where}): {sign.sentence}"
        for text in (problem, f"  What helps: {sign.advice}"):
            paragraph = textwrap.fill(text, WIDTH, subsequent_indent="    ")
            console.print(paragraph, markup=False)


def _row(metrics: ArtifactState) -> dict[str, Any]:
    """Return the metrics of an epoch; an empty dictionary if it has none."""
    if metrics.condition not in (Condition.WHOLE, STALE):
        return {}
    return read_metrics(metrics.folder)


def _costs(found: StateByKind) -> Iterator[str]:
    """Yield the cells of an epoch under `COST`: the cost of each stage when it ran."""
    for kind in EPOCH_KINDS:
        state = found.get(kind)
        # Dashes stand for a stage that has not run.
        seconds = images_per_second = peak = "–"
        if state is not None and state.key:
            manifest = read_manifest(state.folder)
            seconds = _seconds(manifest.seconds)
            peak = _peak(manifest)
            if kind != "metrics":
                images_per_second = _images_per_second(manifest)
        yield seconds
        if kind != "metrics":  # images per second mean nothing for the score stage
            yield images_per_second
        yield peak


def _cost_of_images(images: ArtifactState) -> str:
    if not images.key:
        return ""
    manifest = read_manifest(images.folder)
    seconds = _seconds(manifest.seconds)
    images_per_second = _images_per_second(manifest)
    return (
        f" {manifest.rows:,} images in {seconds} s, "
        f"{images_per_second} images/s, {_peak(manifest)} GiB{_skipped(images, manifest)}"
    )


def _skipped(images: ArtifactState, manifest: Manifest) -> str:
    """Return how many images of the source are not used, and where the reasons are."""
    count = manifest.facts.get("skipped", 0)
    if not count:
        return ""
    return f"\n        {count:,} skipped: {short(images.folder / SKIPPED)} has the reasons"


def _images_per_second(manifest: Manifest) -> str:
    return f"{manifest.rows / manifest.seconds:,.0f}"


def _peak(manifest: Manifest) -> str:
    """Return the peak of main memory in GiB and, if a GPU was used, `+` the peak of its memory."""
    main_memory = f"{manifest.peak_memory_bytes / GIB:.2f}"
    if not manifest.peak_device_bytes:
        return main_memory
    return f"{main_memory}+{manifest.peak_device_bytes / GIB:.2f}"


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}"
    return f"{seconds:,.0f}"
