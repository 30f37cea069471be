"""The epochs of a run that have clusters, found without reading any."""

from deepcluster_core.artifacts.manifest import has_manifest
from deepcluster_core.errors import ConfigError
from stages.runs.folder import RunFolder


def epochs_with_labels(folder: RunFolder) -> list[int]:
    """Return the epochs of a run that have labels, in order."""
    epochs: list[int] = []
    for epoch in folder.epochs("labels"):
        # The manifest is written last.
        if has_manifest(folder.artifact("labels", epoch)):
            epochs.append(epoch)
    return epochs


def epoch_with_labels(folder: RunFolder, wanted: int | None) -> int:
    """Return the wanted epoch, or the last one with labels if `wanted` is None.

    Raises:
        ConfigError: the run has no labels, or none of the wanted epoch.
    """
    epochs = epochs_with_labels(folder)
    if not epochs:
        raise ConfigError(f"{folder.address}: has no labels yet.\n  Fix: run it first.")
    if wanted is None:
        return epochs[-1]
    if wanted not in epochs:
        known = ", ".join(map(str, epochs))
        raise ConfigError(
            f"--epoch {wanted}: {folder.address} has no labels of it.\n  Fix: name one of {known}."
        )
    return wanted
