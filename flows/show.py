"""What `deepcluster show` prints, and what a run says when it ends."""

import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deepcluster_core.artifacts.manifest import Condition, read_manifest
from deepcluster_core.artifacts.tables import read_cluster, read_metrics
from deepcluster_core.errors import ConfigError
from flows.state import STALE, ArtifactState, states_of
from stages.layout import EPOCH_KINDS, RunFolder
from stages.recipe import load_recipe

STYLES = {
    Condition.WHOLE: "green",
    Condition.PRUNED: "dim",
    STALE: "yellow",
    Condition.MISSING: "dim",
    Condition.UNFINISHED: "yellow",
    Condition.DAMAGED: "bold red",
}


def show_run(folder: RunFolder, epoch: int | None) -> None:
    """Print every artifact of a run, or of one epoch: condition, size, key."""
    console = _console()
    recipe, states = load_recipe(folder.config), states_of(folder)
    epochs = {state.epoch for state in states}
    if epoch not in epochs:
        raise ConfigError(f"--epoch {epoch}: the run has epochs 0 to {len(epochs) - 2} so far.")
    console.print(
        f"{_short(folder.root)}: {recipe.network.name}, k = {recipe.cluster.k}, "
        f"seed {recipe.seed}, {recipe.epochs} epochs asked for\n"
        f"source {recipe.dataset.source}\n",
        markup=False,
    )
    by_epoch: dict[int | None, dict[str, ArtifactState]] = {}
    for state in states:
        by_epoch.setdefault(state.epoch, {})[state.kind] = state
    console.print("images  ", _cell(by_epoch[None]["images"]), end="\n\n")
    table = Table("epoch", *EPOCH_KINDS, "loss", "NMI labels", box=None, pad_edge=False)
    for number, found in by_epoch.items():
        if number is not None and epoch in (None, number):
            table.add_row(
                str(number), *(_cell(found[kind]) for kind in EPOCH_KINDS), *_scores(found)
            )
    console.print(table)
    for state in states:
        if state.condition not in (Condition.WHOLE, Condition.PRUNED):
            console.print(
                f"{_short(state.folder)}: {state.condition}: {state.reason}", markup=False
            )


def show_cluster(folder: RunFolder, epoch: int | None, cluster: int, limit: int) -> None:
    """Print the images of a cluster, nearest to its centroid first.

    Raises:
        ConfigError: no epoch given, or no such cluster.
        ArtifactError: the epoch has no labels.
    """
    if epoch is None:
        raise ConfigError("--cluster: cluster ids mean nothing without an epoch.\n  Fix: --epoch N")
    labels = folder.artifact("labels", epoch)
    k = read_manifest(labels).facts["k"]
    if cluster >= k:
        raise ConfigError(f"--cluster {cluster}: epoch {epoch} has clusters 0 to {k - 1}.")
    rows = read_cluster(labels, cluster)
    console = _console()
    console.print(f"epoch {epoch}, cluster {cluster}: {len(rows):,} images, nearest first\n")
    console.print(f"{'distance':>8}  {'image_id':>9}  path")
    for row in rows[:limit]:
        line = f"{row['distance']:8.4f}  {row['image_id']:9}  {_printable(row['path'])}"
        console.print(line, markup=False)
    if len(rows) > limit:
        console.print(f"… and {len(rows) - limit:,} more; --limit {len(rows)} shows all")


def farewell(folder: RunFolder, *, epochs: int, seconds: float) -> str:
    """Return what a run made, and what to type next."""
    run, program = _short(folder.root), _program()
    last = epochs - 1
    features = _short(folder.artifact("features", last))
    return f"""
{run}: {epochs} epoch{"s" if epochs > 1 else ""}, in {_duration(seconds)}
  {run}/overview.png     curves and clusters at a glance
  pd.read_parquet("{run}/labels")      the cluster of every image at every epoch
  pd.read_parquet("{run}/metrics")     the learning curve
  zarr.open_array("{features}/features.zarr")     (N, D), row i is image_id i

Next:
  {program} show {run}
  {program} show {run} --epoch {last} --cluster 0
  {program} stage cluster --run {run} --epoch {last} --set cluster.k=50 --out runs/k50"""


def _console() -> Console:
    """Return the terminal, as wide as it is; a pipe or a file is as wide as the table."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def _cell(state: ArtifactState) -> Text:
    if state.condition == Condition.MISSING:
        return Text("–", style="dim")
    known = f"{_size(state.bytes)} {state.key[:8]}" if state.bytes else state.key[:8]
    said = "" if state.condition == Condition.WHOLE else state.condition
    return Text(" ".join(part for part in (known, said) if part), style=STYLES[state.condition])


def _scores(found: dict[str, ArtifactState]) -> tuple[str, str]:
    metrics = found["metrics"]
    if metrics.condition not in (Condition.WHOLE, STALE):
        return "–", "–"
    row = read_metrics(metrics.folder)
    labels = row["nmi_labels"]
    return f"{row['loss']:.3f}", "–" if labels is None else f"{labels:.3f}"


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def _printable(text: str) -> str:
    """Escape what could move the cursor or colour the terminal: file names are other people's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _short(path: Path) -> str:
    """Return a path as people would type it from here."""
    here = Path.cwd()
    full = path.absolute()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)


def _program() -> str:
    """Return how to call this command: by its name only where a shell would find it."""
    return "deepcluster" if shutil.which("deepcluster") else _short(Path(sys.argv[0]))
