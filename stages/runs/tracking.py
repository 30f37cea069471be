"""Send a run to a tracker: after it ended, or epoch by epoch while it goes on."""

import atexit
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.manifest import Condition, digest_of, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.local_paths import expanded
from deepcluster_core.suggestions import did_you_mean
from deepcluster_core.text import printable, shell_words, without_credentials
from deepcluster_core.tracking.registry import TRACKERS, check_installed, open_tracker
from deepcluster_core.tracking.tracker import Record, Tracker
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_own_recipe
from stages.score import score

Pictures = Mapping[str, bytes]
"""PNG by name."""


def track(folder: RunFolder, name: str, place: str | None, pictures: Pictures) -> str:
    """Send everything that a run has so far to a tracker; return where it is there.

    What the tracker has already is not sent again.

    Args:
        folder: folder of the run.
        name: one of TRACKERS.
        place: URI or folder, whichever the tracker takes; None for its usual place.
        pictures: pictures of the run.

    Raises:
        ConfigError: the tracker is not installed, cannot be reached, or the run has no epoch yet.
    """
    epochs = _scored(folder)
    if not epochs:
        raise ConfigError(
            f"{folder.address}: has no finished epoch yet, so there is nothing to track.\n"
            f"  Fix: deepcluster run {shell_words(folder.config)} --run "
            f"{shell_words(folder.address)}"
        )
    check_installed(name)
    try:
        tracker = open_tracker(name, record_of(folder), place or usual_place(folder, name))
        for epoch in epochs:
            tracker.log_metrics(epoch, metrics_of(folder, epoch))
        for picture, png in pictures.items():
            tracker.log_picture(picture, png, epoch=epochs[-1])
        where = tracker.place
        recipe = load_own_recipe(folder.config)
        tracker.close(finished=len(epochs) >= recipe.num_epochs)
    # Each library raises errors of its own, from those of its network to those of its database.
    except Exception as error:
        raise ConfigError(
            f"tracker {name}: the run could not be written to it.\n"
            f"  Cause: {_cause(error)}\n"
            f"  Fix:   correct what the cause names, and run the same command again."
        ) from error
    return where


class LiveTracking:
    """Sends each epoch to a tracker when it is finished. Never raises an error of the tracker."""

    def __init__(self, folder: RunFolder, name: str, warn: Callable[[str], None]) -> None:
        """Check that the tracker is installed. It is opened when the first epoch is finished.

        Args:
            folder: folder of the run.
            name: one of TRACKERS.
            warn: called once, with the reason, if the tracker fails.

        Raises:
            ConfigError: the library of the tracker is not installed.
        """
        check_installed(name)
        self._folder, self._name, self._warn = folder, name, warn
        self._tracker: Tracker | None = None
        self._failed = False

    def epoch_done(self, epoch: int) -> None:
        """Send the metrics of an epoch."""
        metrics = metrics_of(self._folder, epoch)
        self._try(lambda tracker: tracker.log_metrics(epoch, metrics))

    def run_done(self, pictures: Pictures, *, epoch: int) -> str | None:
        """Send the pictures after the last epoch; return where the run is, unless that failed."""

        def send(tracker: Tracker) -> None:
            for name, png in pictures.items():
                tracker.log_picture(name, png, epoch=epoch)

        self._try(send)
        where = self._tracker.place if self._tracker is not None else None
        self._close(finished=True)
        return None if self._failed else where

    def _try(self, send: Callable[[Tracker], None]) -> None:
        if self._failed:
            return
        try:
            if self._tracker is None:
                place = usual_place(self._folder, self._name)
                self._tracker = open_tracker(self._name, record_of(self._folder), place)
                atexit.register(self._close, finished=False)  # of a run that was interrupted
            send(self._tracker)
        except Exception as error:  # a tracker never ends a run
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Warn once, and leave the tracker alone for the rest of the run."""
        self._failed = True
        run = shell_words(self._folder.address)
        self._warn(
            f"tracker {self._name}: failed, and gets no more of this run: "
            f"{_cause(error)}; deepcluster track {run} --to {self._name} repeats it"
        )

    def _close(self, *, finished: bool) -> None:
        tracker, self._tracker = self._tracker, None
        atexit.unregister(self._close)
        if tracker is None:
            return
        try:
            tracker.close(finished=finished and not self._failed)
        except Exception as error:  # a tracker never ends a run
            if not self._failed:
                self._fail(error)


def usual_place(folder: RunFolder, name: str) -> str:
    """Return the place of a tracker if none is named: for files, a folder in the run.

    A tracker that takes a URI finds its own in the environment.
    """
    usual = TRACKERS[name].folder
    return "" if usual is None else str(folder.root / usual)


def place_given(name: str, uri: str | None, out: str | None) -> str | None:
    """Return the place that a person has named by one of two options; None if they named none.

    Raises:
        ConfigError: the tracker is unknown, or does not take this option.
    """
    if name not in TRACKERS:
        raise ConfigError(
            f"--to {name}: unknown tracker; known: {', '.join(TRACKERS)}"
            f"{did_you_mean(name, TRACKERS) or '.'}"
        )
    takes_uri = TRACKERS[name].folder is None
    if takes_uri and out is not None:
        raise ConfigError(f"--out: {name} takes no folder.\n  Fix: --uri sqlite:///mlflow.db")
    if not takes_uri and uri is not None:
        raise ConfigError(f"--uri: {name} writes to a folder.\n  Fix: --out DIR")
    return uri if takes_uri or out is None else str(expanded(out, Path()))


def _name(folder: RunFolder) -> str:
    """Return the name of a run; with that of its sweep, whose runs have names such as k=00100."""
    root = folder.root.resolve()
    return f"{root.parent.name} {root.name}" if "=" in root.name else root.name


def _cause(error: Exception) -> str:
    """Return why a tracker failed. The URL of a server may hold a password."""
    return printable(without_credentials(first_line(error)))


def record_of(folder: RunFolder) -> Record:
    """Return what a tracker gets to know about a run besides its metrics and pictures."""
    recipe = load_own_recipe(folder.config)
    # A run is one folder on one machine: a copy elsewhere is another run.
    place = [socket.gethostname(), str(folder.root.resolve())]
    return Record(
        id=digest_of(place)[:16],
        name=_name(folder),
        parameters=dict(_dotted(recipe)),
        provenance=_provenance(folder),
    )


def metrics_of(folder: RunFolder, epoch: int) -> dict[str, float]:
    """Return the numbers among the metrics of an epoch, without those that are undefined."""
    metrics: dict[str, float] = {}
    for name, value in read_metrics(folder.artifact(score.kind, epoch)).items():
        if isinstance(value, int | float) and math.isfinite(value):
            metrics[name] = float(value)
    return metrics


def _scored(folder: RunFolder) -> list[int]:
    """Return the epochs that have metrics."""
    found: list[int] = []
    for epoch in folder.epochs(score.kind):
        condition, _ = inspect(folder.artifact(score.kind, epoch))
        if condition is Condition.WHOLE:
            found.append(epoch)
    return found


def _dotted(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the values of a recipe by dotted key."""

    def within(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from within(f"{prefix}{key}.", value)
            else:
                yield f"{prefix}{key}", str(value)

    return within("", recipe.model_dump(mode="json"))


def _provenance(folder: RunFolder) -> dict[str, str]:
    """Return how the latest epoch was made, and the key and digest of each of its artifacts."""
    found: dict[str, str] = {}
    last = max(_scored(folder), default=None)
    if last is None:
        return found
    for kind in EPOCH_KINDS:
        artifact = folder.artifact(kind, last)
        condition, _ = inspect(artifact)
        if condition not in (Condition.WHOLE, Condition.PRUNED):
            continue
        manifest = read_manifest(artifact)
        found[f"{kind}.key"] = manifest.key
        found[f"{kind}.digest"] = manifest.digest
        # That of the metrics, which come last, stays.
        origin = manifest.provenance
        found |= {
            "created": origin.created,
            "code_version": origin.code_version,
            "git_commit": origin.git_commit or "unknown",
            "python": origin.python,
            "device": origin.device,
            "libraries": ", ".join(f"{name} {one}" for name, one in origin.libraries.items()),
        }
    return found
