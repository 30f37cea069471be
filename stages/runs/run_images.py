"""The images of a run at an epoch, read without torch: a report must start fast."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import ShownImages
from deepcluster_core.artifacts.manifest import Condition
from deepcluster_core.artifacts.tables import Labels, centroids_of, read_index, read_labels
from deepcluster_core.clustering.stability import epochs_stayed
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe
from stages.runs.states import ArtifactState

NEIGHBOURS = 10
"""Most similar images of an image that are found at once, for its outlier score as well."""
STABILITY_EPOCHS = 5
"""Number of epochs before over which the stability of an image's cluster is measured."""


def clustered_by(recipe: Recipe, epoch: int) -> tuple[Literal["features", "checkpoints"], int]:
    """Return the kind and the epoch of the artifact with the features that an epoch clustered."""
    # With a bank, the training of the epoch before has computed them.
    trains_bank = recipe.train.has_bank and epoch > 0
    return ("checkpoints", epoch - 1) if trains_bank else ("features", epoch)


@dataclass(frozen=True)
class RunImages:
    """The images of a run at an epoch. `ImageFacts` knows more, for commands that compute."""

    folder: RunFolder
    recipe: Recipe
    states: dict[tuple[str, int | None], ArtifactState]
    epoch: int
    """The latest epoch that has labels."""

    @cached_property
    def images(self) -> ShownImages:
        """The packed images, as people see them."""
        return ShownImages(self.folder.images(self.recipe.images), self.recipe.report.bands)

    @cached_property
    def labels(self) -> Labels:
        """The clusters of the images."""
        return self.labels_of(self.epoch)

    def labels_of(self, epoch: int) -> Labels:
        """Return the clusters of the images at another epoch that has labels."""
        return read_labels(self.folder.artifact("labels", epoch))

    @cached_property
    def labelled_epochs(self) -> list[int]:
        """The epochs that have labels, in order."""
        return [epoch for epoch in range(self.epoch + 1) if self._is_whole("labels", epoch)]

    @cached_property
    def placed_epochs(self) -> list[int]:
        """The epochs that have labels, and features to place the images by, in order."""
        return [
            epoch
            for epoch in self.labelled_epochs
            if self._is_whole(*clustered_by(self.recipe, epoch))
        ]

    @cached_property
    def stayed(self) -> tuple[NDArray[np.int32], int] | None:
        """In how many of the epochs before each image was with its cluster, and their number.

        They are the last `STABILITY_EPOCHS` that the run still has; None if there is none.
        """
        stayed_N, epochs = epochs_stayed(self.labels.cluster_N, self._earlier())
        return (stayed_N, epochs) if epochs else None

    @cached_property
    def rows_bytes(self) -> int:
        """Bytes of the features of all images at one epoch, in the space that was clustered."""
        width = centroids_of(self.folder.artifact("labels", self.epoch))[0].shape[1]
        return 4 * width * len(self.labels.cluster_N)

    def rows(self, epoch: int, *, undo_whitening: bool = False) -> NDArray[np.float32]:
        """Return the features of one of the `placed_epochs`; see `clustered_rows`."""
        # Imported here because it imports zarr, which what only counts epochs does not need.
        from deepcluster_core.inspection.rows import clustered_rows  # noqa: PLC0415

        features = self.folder.artifact(*clustered_by(self.recipe, epoch))
        labels = self.folder.artifact("labels", epoch)
        return clustered_rows(features, labels, undo_whitening=undo_whitening)

    def paths(self, image_ids: Sequence[int]) -> list[str]:
        """Return the paths of some images."""
        found = read_index(self.images.folder, ["path"], image_ids)
        return [image["path"] for image in found]

    def _earlier(self) -> Iterator[NDArray[np.int32]]:
        for epoch in self.labelled_epochs[:-1][-STABILITY_EPOCHS:]:
            yield self.labels_of(epoch).cluster_N

    def _is_whole(self, kind: str, epoch: int) -> bool:
        state = self.states.get((kind, epoch))
        return state is not None and state.condition is Condition.WHOLE
