"""The runs of a sweep over k, or another key. All is checked here before any of them starts."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.manifest import Condition, digest_of, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_table
from deepcluster_core.config_yaml import merged
from deepcluster_core.errors import ArtifactError, ConfigError, SourceError
from stages.index import index
from stages.runs.access import check_run_writable
from stages.runs.folder import RunFolder
from stages.runs.plan import Plan
from stages.runs.recipe import Recipe, load_own_recipe
from stages.runs.settled import resolve

K = "cluster.k"
"""The key that a sweep varies unless another one is named."""
SWEEP = "sweep.parquet"
"""The file name of a sweep's table."""
RUNS = "*=*"
"""A pattern for the folders of the runs."""
NOT_VARIED = {
    "epochs": "the runs of a sweep have equal numbers of epochs; --epochs sets them",
    "images": "it only says where the images are",
    "compute": "it changes no result; compare the seconds of single runs",
}
"""Keys and sections that a sweep cannot vary, and why."""

Value = int | float | str
"""The value of the varied key in one run, as the table holds it. Lists and sections are JSON."""


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    value: Value
    folder: RunFolder
    recipe: Recipe
    overrides: dict[str, Any] = field(default_factory=dict[str, Any])
    """Overrides of the sweep's recipe, nested, including the varied key; empty for a run that was
    opened, whose own recipe already has them."""


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in one key only, in folders inside one folder."""

    root: RunFolder
    """The folder of the sweep: artifacts that are made once for all runs, and the comparison."""
    members: list[Member]
    """The runs: numbers in ascending order, other values as they were given."""
    epochs: int
    """The number of epochs of each run that are compared."""
    key: str = K
    """The varied key of the recipe, dotted."""

    @property
    def axis(self) -> str:
        """The column of the table that holds the varied key: its name, or `k`."""
        return _axis_of(self.key, [member.value for member in self.members])

    @property
    def varied_section(self) -> str | None:
        """The section of the recipe that has the varied key; None for a key of no section."""
        section, dot, _ = self.key.partition(".")
        return section if dot else None

    @property
    def table(self) -> Path:
        """The file of the table, which has one row for each value and epoch."""
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


def _axis_of(key: str, values: Sequence[Any]) -> str:
    """Return `k` for numbers of clusters, and otherwise the key, also for `auto` and lists of k."""
    return "k" if key == K and all(type(value) is int for value in values) else key


def folder_name_of(axis: str, value: Value) -> str:
    """Return the name of a run's folder, in Hive style, such as `k=00100` or `train.lr=0.05`."""
    if axis == "k":
        return f"k={value:05d}"
    # Equal numbers have equal names, 1 and 1.0 too, so that a run is found again.
    is_whole = isinstance(value, float) and value.is_integer()
    text = str(int(value) if is_whole else value)
    plain = re.sub(r"[^A-Za-z0-9_.+-]+", "_", text)[:60]
    if plain != text:  # another value may look like it
        plain += f"-{digest_of(text)[:6]}"
    return f"{axis}={plain}"


def plan(
    recipe: str,
    values: Sequence[Any],
    run: str | None,
    epochs: int | None,
    changes: Mapping[str, Any],
    key: str = K,
) -> Sweep:
    """Return the runs of a sweep, without writing anything.

    Args:
        recipe: path of a YAML file, or the name of one in `configs/`.
        values: values of the varied key, such as numbers of clusters, in any order.
        run: folder of the sweep, or a name for one under `runs/`; None for the recipe's name with
            `-k`, or a dash and the varied key, appended.
        epochs: number of epochs; None for the recipe's.
        changes: nested keys of the recipe, applied to all runs.
        key: the varied key, dotted.

    Raises:
        ConfigError: the recipe or a value is invalid, the key cannot be varied, or the folder is
            that of a single run.
    """
    axis = _axis_of(key, values)
    if axis == "k":
        _check_ks(values, changes)
    else:
        _check_values(key, values, changes)
    # Resolve the folder of the sweep like that of a run, then a folder in it for each value.
    if not run:
        run = f"{Path(recipe).stem}-{axis}"
    _, root = resolve(recipe, run, epochs, changes)
    if root.config.exists():
        raise ConfigError(
            f"{root.address}: is a run, but a sweep is a folder with several runs in it.\n"
            f"  Fix: choose another --run."
        )
    members: list[Member] = []
    for shown, value in _in_order(values):
        # The other overrides stay, and the varied key joins them.
        overrides = merged(dict(changes), _nested(key, value))
        path = str(root.root / folder_name_of(axis, shown))
        own_recipe, folder = resolve(recipe, path, epochs, overrides)
        members.append(Member(shown, folder, own_recipe, overrides))
    return Sweep(root, members, epochs=members[0].recipe.num_epochs, key=key)


def _in_order(values: Sequence[Any]) -> list[tuple[Value, Any]]:
    """Return the values as the table holds them, each with itself; numbers in ascending order.

    A column of the table has one type: if one value is not a number, all are kept as text.
    """
    is_number = [isinstance(value, int | float) and not isinstance(value, bool) for value in values]
    if all(is_number):
        kind = float if any(isinstance(value, float) for value in values) else int
        return sorted((kind(value), value) for value in values)
    return [(value if isinstance(value, str) else json.dumps(value), value) for value in values]


def _nested(key: str, value: Any) -> dict[str, Any]:  # noqa: ANN401  of any key
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _check_values(key: str, values: Sequence[Any], changes: Mapping[str, Any]) -> None:
    """Raise ConfigError if a key cannot be varied, or if its values are too few or repeated."""
    section = key.partition(".")[0]
    for name in (key, section):
        if name in NOT_VARIED:
            raise ConfigError(f"--over {key}: cannot be varied: {NOT_VARIED[name]}.")
    names = Counter(folder_name_of(key, shown) for shown, _ in _in_order(values))
    repeated = [name.removeprefix(f"{key}=") for name, count in names.items() if count > 1]
    if not values or repeated:
        problem = f"given several times: {', '.join(repeated)}" if repeated else "has no value"
        raise ConfigError(
            f"--over {key}: {problem}.\n"
            f"  Fix: for example --over train.lr=0.01,0.05, each value once."
        )
    _check_not_set(key, changes, option="--over")


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
    axis = axis_of(rows)
    members: list[Member] = []
    for value in dict.fromkeys(row[axis] for row in rows):
        folder = RunFolder(root.root / folder_name_of(axis, value))
        if not folder.config.exists():
            raise ConfigError(
                f"{folder.address}: is gone, but {SWEEP} compares it.\n"
                f"  Fix: deepcluster sweep with the other values compares those that are there."
            )
        members.append(Member(value, folder, load_own_recipe(folder.config)))
    last_epoch = max(row["epoch"] for row in rows)
    return Sweep(root, members, epochs=last_epoch + 1, key=K if axis == "k" else axis)


def axis_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the column with the varied key, which is the first one of a sweep's table."""
    return next(iter(rows[0]))


def read_sweep(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a sweep's table, one for each value and epoch.

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
    _check_not_set(K, changes, option="--k")


def _check_not_set(key: str, changes: Mapping[str, Any], *, option: str) -> None:
    """Raise ConfigError if the overrides set the varied key, alone or as part of a section."""
    given: Any = changes
    for part in key.split("."):
        if not isinstance(given, Mapping) or part not in given:
            return
        given = given[part]
    raise ConfigError(
        f"--set {key}: the sweep itself sets this key.\n"
        f"  Fix: leave it out; {option} lists all values."
    )


def check_fits(sweep: Sweep, num_images: int | None) -> None:
    """Reject every k above the number of images; skip the check if that is unknown.

    In a sweep over another key, all recipes are checked one by one.

    Raises:
        ConfigError: at least one k is too large. All of them are reported together.
        FeatureError: there are too few images for the other settings.
    """
    if num_images is None or sweep.varied_section == "dataset":
        return
    if sweep.axis != "k":
        for member in sweep.members:
            member.recipe.suited_to(num_images)
        return
    ks = [member.recipe.cluster.k for member in sweep.members]
    too_many = [str(k) for k in ks if isinstance(k, int) and k > num_images]
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
        return dataset.count(dataset.open_source())
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
