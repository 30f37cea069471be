"""Facts about each image of a run at an epoch, for tables, pages and choices of images.

Suffixes: N images, M neighbours, Q dimensions, K clusters, B block.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import ShownImages
from deepcluster_core.artifacts.tables import Labels, read_clustering
from deepcluster_core.inspection.layout import LayoutMethod, positions
from deepcluster_core.inspection.neighbours import Neighbours, nearest_neighbours
from deepcluster_core.inspection.outliers import outlier_scores
from deepcluster_core.progress import Progress, silent
from stages.runs.past_run import PastRun
from stages.runs.run_images import NEIGHBOURS, RunImages, clustered_by

BLOCK_ROWS = 8192
OF_CROPS = (
    "features of views that were trained on: images are compared by random crops of them, so that "
    "equal images can differ"
)
"""The remark on features of a bank."""


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
    def _run(self) -> RunImages:
        return RunImages(self.past.folder, self.past.recipe, self.past.states, self.epoch)

    @property
    def images(self) -> ShownImages:
        """The packed images, as people see them."""
        return self._run.images

    @property
    def labels(self) -> Labels:
        """The clusters of the images."""
        return self._run.labels

    @property
    def remark(self) -> str | None:
        """What to know where features of images are compared; None if they are of whole images."""
        kind, _ = clustered_by(self.past.recipe, self.epoch)
        return OF_CROPS if kind == "checkpoints" else None

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """The features in the space that was clustered, usually whitened, of length 1.

        Raises:
            ArtifactError: the run has deleted the features (`keep.features`; `keep.checkpoints` for
                those of a bank), or they are damaged.
        """
        self.past.clustered(self.epoch)  # raises if they cannot be used
        return self._run.rows(self.epoch)

    def places(self, method: LayoutMethod) -> NDArray[np.float32]:
        """Return the place (N, 2) of each image on a map, -1 to 1.

        Raises:
            ConfigError: UMAP is wanted, and umap-learn is not installed.
            ArtifactError: the features cannot be used.
        """
        self.past.clustered(self.epoch)
        rows_NQ = self._run.rows(self.epoch, undo_whitening=method == "pca")
        (places_N2,) = positions([rows_NQ], method=method)
        return places_N2

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
        num_images = len(self.labels.cluster_N)
        starts = range(0, num_images, BLOCK_ROWS)
        return np.concatenate(
            [self.second_clusters_of(slice(start, start + BLOCK_ROWS)) for start in starts]
        )

    def second_clusters_of(self, images: slice) -> NDArray[np.int32]:
        """Return `second_clusters` of consecutive images."""
        centroids_KQ = torch.from_numpy(self._clustering["centroids"])
        distance_BK = torch.cdist(torch.from_numpy(self.rows[images]), centroids_KQ)
        own_B = torch.from_numpy(self.labels.cluster_N[images]).long()
        # An empty cluster often lies where another one does, and nobody can look at it.
        distance_BK[:, self._is_empty] = torch.inf
        distance_BK.scatter_(1, own_B[:, None], torch.inf)
        return distance_BK.argmin(dim=1).numpy().astype(np.int32)

    @cached_property
    def _is_empty(self) -> torch.Tensor:
        """Which clusters have no images; none of them if there is only one that has."""
        is_empty_K = np.bincount(self.labels.cluster_N, minlength=self.labels.k) == 0
        has_others = np.count_nonzero(~is_empty_K) > 1
        return torch.from_numpy(is_empty_K & has_others)

    @cached_property
    def _clustering(self) -> dict[str, NDArray[np.float32]]:
        return read_clustering(self.past.whole("labels", self.epoch))

    @cached_property
    def stability(self) -> NDArray[np.float32] | None:
        """Share of the epochs before, 0 to 1, in which each image was with its present cluster.

        They are the last `STABILITY_EPOCHS` that the run still has; None if there is none.
        """
        if self._run.stayed is None:
            return None
        stayed_N, epochs = self._run.stayed
        return (stayed_N / epochs).astype(np.float32)
