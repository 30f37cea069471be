"""Turn stored features into clusters: PCA, whitening, L2 and the clusterer of the recipe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import in_clustering
from deepcluster_core.clustering.device_rows import (
    HeldRows,
    ProjectedOnDevice,
    block_rows,
    pca_bytes,
    points_bytes,
    projection_bytes,
)
from deepcluster_core.clustering.fit import Clustering, Fit
from deepcluster_core.clustering.moments import unit_rows
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.clustering.rows import Projected, Rows
from deepcluster_core.context import Context
from deepcluster_core.progress import part_of
from deepcluster_core.ranks import own_rows

BLOCK_BYTES = 64 << 20
"""Bytes of features, as float32, that the PCA reads at once, if units are smaller."""


@dataclass(frozen=True)
class Grouping:
    """The clusters of all images, and the projection to the space in which they were found."""

    pca: Pca
    fits: tuple[Fit, ...]
    """One for each clustering, in which all images are clustered anew."""

    @property
    def fit(self) -> Fit:
        """The first clustering, which is the only one as a rule."""
        return self.fits[0]

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays needed to assign new images, by their names in the artifact."""
        arrays: dict[str, NDArray[np.float32]] = {}
        # Arrays that change nothing would take as much space as a network's layer.
        if self.pca.projects:
            arrays["pca_mean"] = self.pca.mean_D.numpy()
            arrays["pca_components"] = self.pca.components_QD.numpy()
            arrays["pca_eigenvalues"] = self.pca.eigenvalues_Q.numpy()
        for number, fit in enumerate(self.fits):
            arrays[in_clustering("centroids", number)] = fit.centroids_KQ
        return arrays


def group(
    features: Features,
    clusterers: Sequence[Clustering],
    context: Context,
    *,
    pca_dim: int | None,
    whitened: bool,
    clip: bool,
) -> Grouping:
    """Reduce the features of all images and cluster them, once with each clusterer.

    If there are features of V views of each image, clusterer h gets those of view h % V. The PCA is
    that of the first view, and projects all of them: views are drawn alike.

    Args:
        features: the features of all images.
        clusterers: clustering algorithms; each has random numbers of its own.
        context: seed, epoch, device, ranks and the folder for intermediate results.
        pca_dim: dimensions that the PCA keeps; None for no PCA, only rows of length 1. A row of
            zeros stays zero in either case.
        whitened: whether each dimension is scaled to variance one.
        clip: keep fewer dimensions, instead of raising an error, if the features have a lower rank.

    Raises:
        FeatureError: the features cannot be reduced or clustered like this.
    """
    own = own_rows(features.num_images, context.ranks, unit=unit_rows(features.view_dim))
    blocks = map(
        torch.from_numpy,
        features.blocks(rows=own, block_rows=_read_rows(features, context), view=0),
    )
    held = _held(features, own, pca_dim, context)
    pca = fit_pca(
        blocks if held is None else held.passing(blocks),
        dim=pca_dim,
        whitened=whitened,
        clip=clip,
        num_rows=features.num_images,
        ranks=context.ranks,
        device=context.device,
    )
    # The features are read again for each clustering, now through the projection; those that are
    # on a GPU are not.
    fits: list[Fit] = []
    for number, clusterer in enumerate(clusterers):
        fit = clusterer.fit(
            _rows(features, number % features.views, pca, context, held),
            seed=_seed(context, number),
            device=context.device,
            progress=part_of(context.progress, number, len(clusterers)),
            ranks=context.ranks,
        )
        fits.append(fit)
    return Grouping(pca, tuple(fits))


def _seed(context: Context, number: int) -> int:
    """Return the seed of a clustering."""
    # It is named "kmeans" for every algorithm; a different name would change the results.
    names: list[str | int] = [context.epoch or 0, "cluster", "kmeans"]
    if number > 0:  # the first one keeps the seed that it has when there is one only
        names.append(number)
    return seeding.derive(context.seed, *names)


def _held(features: Features, own: range, pca_dim: int | None, context: Context) -> HeldRows | None:
    """Return what keeps the features of this rank's images on its GPU; None on a CPU."""
    if context.device == "cpu":
        return None
    dim = features.view_dim
    num_bytes = len(own) * dim * features.dtype.itemsize
    # While the PCA is computed, and then while k-means has the projected rows; its k is not known
    # here, and is taken to be the paper's.
    kmeans_bytes = points_bytes(len(own), pca_dim or dim, k=10_000)
    kmeans_bytes += projection_bytes(len(own), dim)
    others_bytes = max(pca_bytes(features.num_images, dim), kmeans_bytes)
    return HeldRows(own, num_bytes=num_bytes, others_bytes=others_bytes, device=context.device)


def _rows(features: Features, view: int, pca: Pca, context: Context, held: HeldRows | None) -> Rows:
    """Return the rows to cluster, which are projected, whitened and normalised when read."""
    width = len(pca.components_QD)
    if held is None:
        return _projected(features, view, pca, context)
    device = torch.device(context.device)
    moved_pca = pca.to(device)  # moved once rather than for each block of rows

    def read(rows: range) -> Iterator[torch.Tensor]:
        kept = held.read(rows) if view == 0 else None  # the PCA has read the first view
        if kept is not None:
            yield from kept
            return
        read_rows = _read_rows(features, context)
        for block_BD in features.blocks(rows=rows, block_rows=read_rows, view=view):
            yield torch.from_numpy(block_BD).to(device)

    return ProjectedOnDevice(features.num_images, width, read, moved_pca.whiten, context.scratch)


def _read_rows(features: Features, context: Context) -> int:
    """Return how many rows to read at once: whole units of the PCA."""
    if context.device != "cpu":
        return block_rows(features.view_dim)
    unit = unit_rows(features.view_dim)
    return unit * max(1, BLOCK_BYTES // (4 * unit * features.dim))


def _projected(features: Features, view: int, pca: Pca, context: Context) -> Projected:
    """Return rows that the CPU projects."""

    def read(rows: range) -> Iterator[NDArray[np.floating]]:
        return features.blocks(rows=rows, view=view)

    def project(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
        return pca.whiten(torch.from_numpy(raw_BD)).numpy()

    width = len(pca.components_QD)
    return Projected(features.num_images, width, read, project, context.scratch)
