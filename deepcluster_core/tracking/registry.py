"""The trackers by name. A tracker's library is imported only when the tracker is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from deepcluster_core.errors import ConfigError
from deepcluster_core.suggestions import did_you_mean
from deepcluster_core.tracking.tracker import Record, Tracker


@dataclass(frozen=True)
class TrackerEntry:
    """How a tracker is opened, and what it needs."""

    module: str
    """The module in this package whose function `open_tracker` opens it."""
    package: str
    """The library that has to be installed. The extra with it has the tracker's name."""
    folder: str | None = None
    """Its usual folder below that of a run. None: its place is the URI of a store or server."""


TRACKERS: dict[str, TrackerEntry] = {
    "mlflow": TrackerEntry("mlflow_store", package="mlflow"),
    "tensorboard": TrackerEntry("tensorboard_files", package="tensorboard", folder="tensorboard"),
    "wandb": TrackerEntry("wandb_folder", package="wandb", folder="."),
}


def known_tracker(name: str) -> str:
    """Return the name if it is that of a tracker; raise ValueError if not."""
    if name not in TRACKERS:
        raise ValueError(
            f"unknown tracker {name!r}; known: {', '.join(TRACKERS)}{did_you_mean(name, TRACKERS)}"
        )
    return name


def check_installed(name: str) -> None:
    """Raise ConfigError if the library of a tracker is not installed."""
    if find_spec(TRACKERS[name].package) is None:
        raise ConfigError(
            f"tracker {name}: its package {TRACKERS[name].package} is not installed.\n"
            f"  Fix: pip install 'deepcluster-pipeline[{name}]'"
        )


def open_tracker(name: str, record: Record, place: str) -> Tracker:
    """Open a run in a tracker, where it may have been tracked before.

    Args:
        name: one of TRACKERS.
        record: the run.
        place: a URI or a folder; empty for the place that the tracker's own settings name.

    Raises:
        ConfigError: the tracker's library is not installed.
    """
    check_installed(name)
    module = import_module(f"deepcluster_core.tracking.{TRACKERS[name].module}")
    opener: Callable[[Record, str], Tracker] = module.open_tracker
    return opener(record, place)
