"""Facts about each image of a run at an epoch, for tables, pages and choices of images.

Suffixes: N images, M neighbours, Q dimensions, K clusters, B block.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import Condition, read_manifest
from deepcluster_core.artifacts.tables import Labels, read_clustering, read_labels
from deepcluster_core.clustering.assign import Assigner
from deepcluster_core.clustering.stability import epochs_stayed
from deepcluster_core.inspection.neighbours import Neighbours, nearest_neighbours
from deepcluster_core.inspection.outliers import outlier_scores
from deepcluster_core.progress import Progress, silent
from stages.runs.past_run import PastRun

NEIGHBOURS = 10
"""Neighbours of an image that are found at once, for its outlier score as well."""
STABILITY_EPOCHS = 5
"""Number of epochs before over which the stability of an image's cluster is measured."""
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class ImageFacts:
    """The images of a run at an epoch. What needs the features is computed when it is asked for."""

    past: PastRun
    epoch: int
    progress: Progress = field(default=silent, compare=False)
    """Receives the number of images whose neighbours are found."""

    @classmethod
    def of(cls, past: PastRun, epoch: int | None, *, progress: Progress = silent) -> "ImageFacts":
        """Return the facts at an epoch; at the last one with labels if `epoch` is None.

        Raises:
            ConfigError: the run does not have the epoch.
            ArtifactError: its labels are missing or damaged.
        """
        number = past.epoch("labels", epoch)
        past.whole("labels", number)
        return cls(past, number, progress)

    @cached_property
    def images(self) -> Images:
        """The packed images."""
        return Images(self.past.folder.images(self.past.recipe.images))

    @cached_property
    def labels(self) -> Labels:
        """The clusters of the images."""
        return read_labels(self.past.whole("labels", self.epoch))

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """The features in the space that was clustered: whitened, of length 1.

        Raises:
            ArtifactError: the run has deleted the features (`keep.features`), or they are damaged.
        """
        labels = self.past.whole("labels", self.epoch)
        whitened = read_manifest(labels).config["cluster"]["whiten"]
        pca = Assigner.of(read_clustering(labels), whitened=whitened, device="cpu").pca
        features = self._features
        rows_NQ = np.empty((features.num_images, len(pca.eigenvalues_Q)), np.float32)
        start = 0
        # With several views of an image, the clusters of the first clustering are those of view 0.
        for raw_BD in features.blocks(block_rows=BLOCK_ROWS, view=0):
            rows_BQ = pca.whiten(torch.from_numpy(raw_BD))
            rows_NQ[start : start + len(raw_BD)] = rows_BQ.numpy()
            start += len(raw_BD)
        return rows_NQ

    @property
    def _features(self) -> Features:
        """The features that were clustered at this epoch."""
        trains_bank = self.past.recipe.train.has_bank and self.epoch > 0
        # With a bank, the training of the epoch before has computed them.
        kind, epoch = ("checkpoints", self.epoch - 1) if trains_bank else ("features", self.epoch)
        return Features(self.past.whole(kind, epoch))

    @cached_property
    def neighbours(self) -> Neighbours:
        """The most similar other images of each image."""
        device = self.past.device
        return nearest_neighbours(self.rows, NEIGHBOURS, device=device, progress=self.progress)

    @cached_property
    def outliers(self) -> NDArray[np.float32]:
        """The outlier score of each image, 0 to 1."""
        return outlier_scores(self.neighbours)

    @cached_property
    def second_clusters(self) -> NDArray[np.int32]:
        """The cluster whose centroid is the nearest after that of the image's own cluster."""
        clustering = read_clustering(self.past.whole("labels", self.epoch))
        centroids_KQ = torch.from_numpy(clustering["centroids"])
        second_N = np.empty(len(self.labels.cluster_N), np.int32)
        for start in range(0, len(second_N), BLOCK_ROWS):
            here = slice(start, start + BLOCK_ROWS)
            distance_BK = torch.cdist(torch.from_numpy(self.rows[here]), centroids_KQ)
            own_B = torch.from_numpy(self.labels.cluster_N[here]).long()
            distance_BK.scatter_(1, own_B[:, None], torch.inf)
            second_N[here] = distance_BK.argmin(dim=1).numpy()
        return second_N

    @cached_property
    def stability(self) -> NDArray[np.float32] | None:
        """Share of the epochs before, 0 to 1, in which each image was with its present cluster.

        They are the last `STABILITY_EPOCHS` that the run still has; None if there is none.
        """
        stayed_N, epochs = epochs_stayed(self.labels.cluster_N, self._earlier_clusters())
        if epochs == 0:
            return None
        return (stayed_N / epochs).astype(np.float32)

    def _earlier_clusters(self) -> Iterator[NDArray[np.int32]]:
        for epoch in range(max(0, self.epoch - STABILITY_EPOCHS), self.epoch):
            state = self.past.states.get(("labels", epoch))
            if state is not None and state.condition is Condition.WHOLE:
                yield read_labels(state.folder).cluster_N
