"""Assign new images to the existing clusters of a run.

Suffixes: N and B rows, D features, Q kept, K clusters, H clusterings.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import nan

import numpy as np
import torch

from deepcluster_core.artifacts.file_names import of_all_clusterings
from deepcluster_core.clustering.nearest import Nearest
from deepcluster_core.clustering.pca import Pca
from deepcluster_core.clustering.rows import ClusterIds, Floats, InMemory, Projected, Raw
from deepcluster_core.errors import ArtifactError, FeatureError

AT_ONCE = 4096
"""Rows searched at once: a multiple of the rows that are projected at once.

Products then round as they did when the run was clustered.
"""

ARRAYS_OF_PCA = frozenset(("pca_mean", "pca_components", "pca_eigenvalues"))


@dataclass(frozen=True)
class Assigner:
    """The projection and the centroids of a label table."""

    pca: Pca
    centroids: tuple[Floats, ...]
    """centroids_KQ of each clustering."""
    device: str = "cpu"

    @classmethod
    def of(cls, clustering: Mapping[str, Floats], *, whitened: bool, device: str) -> "Assigner":
        """Return the assigner for the arrays of a label table, as `write_labels` stores them.

        Args:
            clustering: `pca_mean`, `pca_components`, `pca_eigenvalues` and `centroids`, and for
                further clusterings `centroids_1` and so on. Without all of the first three, the
                features were clustered without a PCA.
            whitened: whether the features were whitened for clustering.
            device: a torch device; near ties may be decided differently on a GPU and on the CPU.

        Raises:
            ArtifactError: an array is missing, or the shapes of the arrays do not match.
        """
        try:
            first_KQ = clustering["centroids"]
            if ARRAYS_OF_PCA.isdisjoint(clustering):
                pca = Pca.identity(first_KQ.shape[1])
            else:
                # effective_rank and dead_features are not stored; the projection needs neither.
                pca = Pca(
                    mean_D=torch.from_numpy(clustering["pca_mean"]),
                    components_QD=torch.from_numpy(clustering["pca_components"]),
                    eigenvalues_Q=torch.from_numpy(clustering["pca_eigenvalues"]),
                    effective_rank=nan,
                    dead_features=nan,
                    whitened=whitened,
                )
        except KeyError as error:
            raise ArtifactError(f"{error}: missing among the arrays of the labels.") from error
        centroids = of_all_clusterings(clustering, "centroids")
        width = len(pca.eigenvalues_Q)
        pca_fits = pca.components_QD.shape == (width, len(pca.mean_D))
        centroids_fit = all(centroids_KQ.shape[1:] == (width,) for centroids_KQ in centroids)
        if not (pca_fits and centroids_fit):
            raise ArtifactError("the shapes of the labels' PCA and centroids do not match.")
        return cls(pca, centroids, device)

    def assign(
        self, batches: Iterable[tuple[list[str], Raw]], *, at_once: int = AT_ONCE
    ) -> Iterator[tuple[list[str], ClusterIds, Floats]]:
        """Yield paths, cluster_HB and distance_HB for batches of paths and features, in order.

        Each image goes to the nearest centroid by Euclidean distance, as in `nearest.assign`. If
        two centroids are equally near up to the last digits, either may be chosen, depending on
        the place of an image among those searched together.

        Raises:
            FeatureError: features are not finite, or their width differs from the run's.
        """
        width = len(self.pca.eigenvalues_Q)
        for paths, raw_BD in _grouped(batches, at_once):
            self._check(paths, raw_BD)
            # `Projected` multiplies blocks of equal size, as when the run was clustered.
            rows = Projected(len(raw_BD), width, partial(_part, raw_BD), self._rows)
            if len(self._nearest) > 1:
                rows = InMemory(rows.all())  # projected once for all clusterings
            assigned = [nearest.assign(rows) for nearest in self._nearest]
            cluster_HB = np.stack([cluster_B for cluster_B, _ in assigned])
            distance_HB = np.stack([distance_B for _, distance_B in assigned])
            yield paths, cluster_HB, distance_HB

    @cached_property
    def _nearest(self) -> list[Nearest]:
        return [Nearest(centroids_KQ, device=self.device) for centroids_KQ in self.centroids]

    @cached_property
    def _projection(self) -> Pca:
        return self.pca.to(self.device)

    def _rows(self, raw_BD: Raw) -> Floats:
        # The features may come from a generator that is suspended inside its autocast block, which
        # would round the projection too: on the demo, 7 of 10,000 images changed their cluster.
        with torch.autocast(torch.device(self.device).type, enabled=False):
            raw = torch.from_numpy(raw_BD).to(self.device)
            return self._projection.whiten(raw).cpu().numpy()

    def _check(self, paths: list[str], raw_BD: Raw) -> None:
        dim = len(self.pca.mean_D)
        if raw_BD.shape[1] != dim:
            raise FeatureError(
                f"the features have {raw_BD.shape[1]} values, but the labels were made from {dim}."
                f"\n  Cause: the network or extract.layer of the recipe was changed since then.\n"
                f"  Fix:   make the run again with deepcluster run, or choose an epoch that fits."
            )
        is_finite_B = np.isfinite(raw_BD).all(axis=1)
        bad_B = ~is_finite_B
        if bad_B.any():
            first_path = paths[int(bad_B.argmax())]
            raise FeatureError(
                f"{first_path}: its feature is not finite; this is so for "
                f"{int(bad_B.sum())} of {len(paths)} images in this batch.\n"
                f"  Cause: training diverged, or values are beyond the range of extract.dtype.\n"
                f"  Fix:   choose an earlier --epoch."
            )


def _part(raw_BD: Raw, rows: range) -> Iterator[Raw]:
    yield raw_BD[rows.start : rows.stop]


def _grouped(
    batches: Iterable[tuple[list[str], Raw]], size: int
) -> Iterator[tuple[list[str], Raw]]:
    """Yield the rows regrouped into batches of `size`; the last batch may be smaller."""
    paths: list[str] = []
    held: list[Raw] = []
    for some_paths, raw_BD in batches:
        start = 0
        while start < len(raw_BD):
            missing = size - len(paths)
            end = start + missing
            paths += some_paths[start:end]
            held.append(raw_BD[start:end])
            start = end
            if len(paths) == size:
                yield paths, np.concatenate(held)
                paths, held = [], []
    if paths:
        yield paths, np.concatenate(held)
