"""The sides of `benchmarks.overhead`: the time of an epoch besides compute, and looks at a run."""

import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.machine import ROOT

Figures = dict[str, float]
T = TypeVar("T")

CONFIGS = ROOT / "configs"
DIGITS = str(CONFIGS / "data" / "mnist-test.parquet")
LOOKS = 10
"""Number of timed looks, whose median counts."""


class Meter:
    """A meter that separates the time of compute from all other time."""

    def __init__(self) -> None:
        self.compute_s = 0.0
        self.outside_s: dict[str, float] = {}
        """Seconds so far in the body of each stage that were not spent on computing."""
        self.marks: list[tuple[float, float, dict[str, float]]] = []
        """The time, `compute_s` and `outside_s` at the end of each epoch."""

    def mark(self) -> None:
        """Record the end of an epoch."""
        self.marks.append((time.perf_counter(), self.compute_s, dict(self.outside_s)))

    def call(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function whose calls count as compute."""

        def counted(*args: object, **kwargs: object) -> T:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.compute_s += time.perf_counter() - start

        return counted

    def items(self, function: Callable[..., Iterator[T]], sign: int) -> Callable[..., Iterator[T]]:
        """Return a function whose iterator counts as compute while it makes an item.

        With the sign -1, that time is subtracted instead: it is spent within a call that counts as
        compute, but is not compute itself.
        """

        def counted(*args: object, **kwargs: object) -> Iterator[T]:
            items = function(*args, **kwargs)
            while True:
                start = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.compute_s += sign * (time.perf_counter() - start)
                yield item

        return counted

    def stage_body(self, make: Callable[..., None]) -> Callable[..., None]:
        """Return the method that makes an artifact, measured without its compute."""

        def measured(stage: Any, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
            start, compute_before_s = time.perf_counter(), self.compute_s
            make(stage, *arguments, **named)
            seconds = time.perf_counter() - start
            outside_s = seconds - (self.compute_s - compute_before_s)
            self.outside_s[stage.name] = self.outside_s.get(stage.name, 0.0) + outside_s

        return measured

    def figures(self) -> Figures:
        """Return the medians of all epochs but the first, in seconds.

        `added_s` is everything except compute. `<stage>_s` is the part of it in a stage's body, and
        `between_s` is the rest: the task engine, keys, the report, the UI, and deleting what is not
        kept.
        """
        epochs: list[Figures] = []
        for before, after in pairwise(self.marks):
            start, compute_start_s, outside_start = before
            end, compute_end_s, outside_end = after
            added_s = end - start - (compute_end_s - compute_start_s)
            bodies: Figures = {}
            for name, start_s in outside_start.items():
                if name != "index":  # it runs once, before the first epoch
                    bodies[f"{name}_s"] = outside_end[name] - start_s
            between_s = added_s - sum(bodies.values())
            epochs.append(
                {"seconds": end - start, "added_s": added_s, **bodies, "between_s": between_s}
            )
        medians: Figures = {}
        for name in epochs[0]:
            medians[name] = statistics.median(epoch[name] for epoch in epochs)
        return medians


def epochs(run: str, home: str, images: int, n: int) -> Figures:
    """Run `n` epochs as a flow; return their time besides compute."""
    _prepare_prefect(home)
    from flows.engine.open_run import ON_TERMINAL  # noqa: PLC0415
    from flows.epoch_loop import deepcluster  # noqa: PLC0415
    from flows.prefect_.embedded import EmbeddedServer  # noqa: PLC0415
    from stages.runs.recipe import RecipeOverrides  # noqa: PLC0415

    meter, server = Meter(), EmbeddedServer()
    _attach(meter)
    ON_TERMINAL.set(True)
    recipe = str(CONFIGS / "imagenet-alexnet.yaml")
    overrides = RecipeOverrides.model_validate(_overrides(images))
    try:
        with server.running():
            deepcluster(recipe, run=run, epochs=n, overrides=overrides)
    finally:
        server.end()
    return meter.figures()


def looks(runs: str, home: str, n: int) -> Figures:
    """Show the latest epochs of a run of `n` epochs in the UI, as after each epoch.

    Returns:
        `look_s`, median wall time in seconds of looking at the artifacts and of storing the tables;
        the first look is left out.
    """
    _prepare_prefect(home)
    from prefect import flow  # noqa: PLC0415

    from benchmarks.synthetic_run import write_run  # noqa: PLC0415
    from flows.prefect_.embedded import EmbeddedServer  # noqa: PLC0415
    from flows.prefect_.ui import Ui  # noqa: PLC0415

    root = Path(runs) / str(n)
    folder = write_run(root, CONFIGS / "imagenet-alexnet.yaml", epochs=n)
    server = EmbeddedServer()

    @flow
    def look() -> Figures:
        ui = Ui(folder, epochs=n)
        ui.update(n - 1)  # the first look is left out
        return {"look_s": _median(lambda: ui.update(n - 1))}

    try:
        with server.running():
            return look()
    finally:
        server.end()


def _median(call: Callable[[], object]) -> float:
    """Return the median wall time of a call, seconds."""
    seconds: list[float] = []
    for _ in range(LOOKS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _prepare_prefect(home: str) -> None:
    """Set the environment. Call this before anything imports Prefect."""
    os.environ["PREFECT_HOME"] = home
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.pop("PREFECT_API_URL", None)


def _overrides(images: int) -> dict[str, Any]:
    """Return a recipe with artifacts of the documented sizes and a training of two steps."""
    dataset = {"source": DIGITS, "subset": images, "shorter_side": 32, "channels": 1}
    return {
        "dataset": {**dataset, "encoding": "raw"},
        "cluster": {"k": 100},
        "train": {"reassign_every": 512 / images},
        "keep": {"features": 1},
    }


def _attach(meter: Meter) -> None:
    """Count the compute of the stages. The rest of what they do is measured."""
    from deepcluster_core.artifacts.features import Features  # noqa: PLC0415
    from deepcluster_core.clustering.kmeans import KMeans  # noqa: PLC0415
    from deepcluster_core.stage import StageFunction  # noqa: PLC0415
    from stages.runs.run import Run  # noqa: PLC0415

    for name, measured in (
        ("deepcluster_core.features.extract_features", lambda body: meter.items(body, 1)),
        ("deepcluster_core.clustering.grouping.fit_pca", meter.call),
        ("deepcluster_core.training.epoch.train_epoch", meter.call),
    ):
        module, _, attribute = name.rpartition(".")
        owner = importlib.import_module(module)
        _replace(owner, attribute, measured(getattr(owner, attribute)))
    _replace(KMeans, "fit", meter.call(KMeans.fit))
    _replace(Features, "blocks", meter.items(Features.blocks, -1))
    _replace(StageFunction, "make", meter.stage_body(StageFunction.make))
    finish_epoch = Run.finish_epoch

    def marked(run: Run[Any], epoch: int) -> None:
        finish_epoch(run, epoch)
        meter.mark()

    _replace(Run, "finish_epoch", marked)


def _replace(owner: object, name: str, value: object) -> None:
    setattr(owner, name, value)
