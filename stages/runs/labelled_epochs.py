"""The epochs of a run that have clusters, found without reading any."""

from deepcluster_core.artifacts.manifest import MANIFEST
from deepcluster_core.errors import ConfigError
from stages.runs.folder import RunFolder


def epochs_with_labels(folder: RunFolder) -> list[int]:
    """Return the epochs of a run that have labels, in order."""
    epochs: list[int] = []
    for epoch in folder.epochs("labels"):
        # The manifest is written last.
        if (folder.artifact("labels", epoch) / MANIFEST).exists():
            epochs.append(epoch)
    return epochs


def last_epoch_with_labels(folder: RunFolder) -> int:
    """Return the last epoch of a run that has labels; raise ConfigError if none has."""
    epochs = epochs_with_labels(folder)
    if not epochs:
        raise ConfigError(f"{folder.root}: has no labels yet.\n  Fix: run it first.")
    return epochs[-1]
