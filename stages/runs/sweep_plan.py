"""The runs of a sweep over k. Everything is checked here before any of them starts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_table
from deepcluster_core.errors import ArtifactError, ConfigError, SourceError
from stages.index import index
from stages.runs.access import check_run_writable
from stages.runs.folder import RunFolder
from stages.runs.locate import resolve
from stages.runs.plan import Plan
from stages.runs.recipe import Recipe, load_own_recipe

VARIED = "cluster"
"""The section of the recipe that has the varied key, `k`."""
SWEEP = "sweep.parquet"
"""The file name of a sweep's table."""
RUNS = "k=*"
"""A pattern for the folders of the runs."""


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    k: int
    folder: RunFolder
    recipe: Recipe
    overrides: dict[str, Any] = field(default_factory=dict[str, Any])
    """Overrides of the sweep's recipe, nested, including k; empty for a run that was opened, whose
    own recipe already has them."""


@dataclass(frozen=True)
class Sweep:
    """Runs that differ only in k, in folders inside one folder."""

    root: RunFolder
    """The folder of the sweep: artifacts that are made once for all runs, and the comparison."""
    members: list[Member]
    """The runs, by ascending k."""
    epochs: int
    """The number of epochs of each run that are compared."""

    @property
    def table(self) -> Path:
        """The file of the table, which has one row for each k and epoch."""
        return self.root.root / SWEEP

    @property
    def picture(self) -> Path:
        """The file of the picture, which shows the table as curves."""
        return self.root.root / "sweep.png"

    def others(self) -> list[str]:
        """Return the names of the runs in the folder that are not part of this sweep."""
        own_names = {member.folder.name for member in self.members}
        all_names = {path.name for path in self.root.root.glob(RUNS)}
        return sorted(all_names - own_names)


def run_of_k(k: int) -> str:
    """Return the name of a run's folder, in Hive style."""
    return f"k={k:05d}"


def parse_ks(text: str) -> list[int]:
    """Parse `10,100,1000` into numbers.

    Raises:
        ConfigError: a part of the text is not a whole number.
    """
    parts = [part.strip() for part in text.split(",")]
    # isdigit alone would accept digits such as superscripts, which int rejects.
    wrong = [part for part in parts if not (part.isascii() and part.isdigit())]
    if wrong:
        raise ConfigError(
            f"--k {text}: not a whole number: {', '.join(map(repr, wrong))}.\n"
            f"  Fix: numbers with commas between them, for example --k 10,100,1000."
        )
    return [int(part) for part in parts]


def plan(
    recipe: str, ks: Sequence[int], run: str | None, epochs: int | None, changes: Mapping[str, Any]
) -> Sweep:
    """Return the runs of a sweep, without writing anything.

    Args:
        recipe: path of a YAML file, or the name of one in `configs/`.
        ks: numbers of clusters, in any order.
        run: folder of the sweep, or a name for one under `runs/`; None for the recipe's name with
            `-k` appended.
        epochs: number of epochs; None for the recipe's.
        changes: nested keys of the recipe, applied to all runs.

    Raises:
        ConfigError: the recipe or a k is invalid, or the folder is that of a single run.
    """
    _check_ks(ks, changes)
    # Resolve the folder of the sweep like that of a run, then a folder in it for each k.
    if not run:
        run = f"{Path(recipe).stem}-k"
    _, root = resolve(recipe, run, epochs, changes)
    if root.config.exists():
        raise ConfigError(
            f"{root.root}: is a run, but a sweep is a folder with several runs in it.\n"
            f"  Fix: choose another --run."
        )
    members: list[Member] = []
    for k in sorted(ks):
        # The overrides of the section stay, and k joins them.
        section = {**(changes.get(VARIED) or {}), "k": k}
        overrides = {**changes, VARIED: section}
        path = str(root.root / run_of_k(k))
        own_recipe, folder = resolve(recipe, path, epochs, overrides)
        members.append(Member(k, folder, own_recipe, overrides))
    return Sweep(root, members, epochs=members[0].recipe.num_epochs)


def is_sweep(folder: Path) -> bool:
    """Return whether a folder holds the runs of a sweep, whether compared or not yet."""
    return (folder / SWEEP).exists() or any(folder.glob(f"{RUNS}/config.yaml"))


def open_sweep(root: RunFolder) -> Sweep:
    """Open an existing sweep with the runs that its table compares.

    Raises:
        ArtifactError: the table is missing or damaged.
        ConfigError: one of the runs is missing.
    """
    rows = read_sweep(root.root)
    ks = {row["k"] for row in rows}
    members: list[Member] = []
    for k in sorted(ks):
        folder = RunFolder(root.root / run_of_k(k))
        if not folder.config.exists():
            raise ConfigError(
                f"{folder.root}: is gone, but {SWEEP} compares it.\n"
                f"  Fix: deepcluster sweep with the other k compares those that are there."
            )
        members.append(Member(k, folder, load_own_recipe(folder.config)))
    last_epoch = max(row["epoch"] for row in rows)
    return Sweep(root, members, epochs=last_epoch + 1)


def read_sweep(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a sweep's table, one for each k and epoch.

    Raises:
        ArtifactError: the table is missing or damaged.
    """
    try:
        return read_table(folder / SWEEP).to_pylist()
    except ArtifactError as error:
        raise ArtifactError(
            f"{folder / SWEEP}: cannot be read.\n"
            f"  Fix: deepcluster sweep with all its k makes it again, from the runs that are there."
        ) from error


def _check_ks(ks: Sequence[int], changes: Mapping[str, Any]) -> None:
    """Raise ConfigError if a k is invalid or repeated, or if the overrides set k as well."""
    problems: list[str] = []
    for k in ks:
        if k < 2:
            problems.append(f"{k} is too small: at least 2 clusters are needed")
    for k, count in sorted(Counter(ks).items()):
        if count > 1:
            problems.append(f"{k} is given {count} times")
    if not ks:
        problems.append("none is given")
    if problems:
        raise ConfigError(
            f"--k: {'; '.join(problems)}.\n  Fix: for example --k 10,100,1000, each once."
        )
    section = changes.get(VARIED)
    if isinstance(section, Mapping) and "k" in section:
        raise ConfigError(
            "--set cluster.k: the sweep itself sets this key.\n"
            "  Fix: leave it out; --k lists all values."
        )


def check_k_fits(sweep: Sweep, num_images: int | None) -> None:
    """Reject every k above the number of images; skip the check if that is unknown.

    Raises:
        ConfigError: at least one k is too large. All of them are reported together.
        FeatureError: there are too few images for the other settings.
    """
    if num_images is None:
        return
    too_many = [str(member.k) for member in sweep.members if member.k > num_images]
    if too_many:
        # Report them here, because the check of a single recipe would name only its own k.
        raise ConfigError(
            f"--k {','.join(too_many)}: more clusters than the {num_images:,} images.\n"
            f"  Fix: leave them out, or add images."
        )
    # The other settings are equal in all runs, so one recipe stands for all.
    sweep.members[0].recipe.suited_to(num_images)


def check_sweep_writable(sweep: Sweep) -> None:
    """Raise ConfigError unless the folder of a sweep and those of its runs can be written."""
    check_run_writable(sweep.root)
    for member in sweep.members:
        check_run_writable(member.folder)


def count_images(sweep: Sweep) -> int | None:
    """Return the number of images of the source; None if only indexing it can count them."""
    dataset = sweep.members[0].recipe.dataset
    try:
        return dataset.subset or dataset.open_source().count()
    except SourceError:
        # The packed images may be enough. If not, the run will report the missing source.
        return packed_images(sweep)


def packed_images(sweep: Sweep) -> int | None:
    """Return how many images were indexed for all runs; None if they are not indexed yet."""
    # The images lie in the folder of the sweep, unless the recipe names another one.
    shared_plan = Plan(sweep.root, sweep.members[0].recipe)
    images = shared_plan.place(index, None)
    condition, _ = inspect(images)
    if condition is not Condition.WHOLE:
        return None
    return read_manifest(images).rows
