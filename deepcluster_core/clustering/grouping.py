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
from deepcluster_core.clustering.pca_sample import check_finite, sample_ids, sampled_blocks
from deepcluster_core.clustering.rows import Projected, RowIds, Rows
from deepcluster_core.clustering.stored_pca import read_pca
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
    pca_sample: int | None = None,
) -> Grouping:
    """Reduce the features of all images and cluster them, once with each clusterer.

    Features that are stored reduced have a PCA already, which is used in place of a new one.

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
        pca_sample: number of random images that the PCA is fitted to; None for all.

    Raises:
        FeatureError: the features cannot be reduced or clustered like this.
    """
    # The features are read again for each clustering, now through the projection; those that are
    # on a GPU are not.
    source = _fitted(
        features, context, pca_dim=pca_dim, whitened=whitened, clip=clip, pca_sample=pca_sample
    )
    fits: list[Fit] = []
    for number, clusterer in enumerate(clusterers):
        fit = clusterer.fit(
            source.rows(number % features.views),
            seed=_seed(context, number),
            device=context.device,
            progress=part_of(context.progress, number, len(clusterers)),
            ranks=context.ranks,
        )
        fits.append(fit)
    return Grouping(source.pca, tuple(fits))


def _fitted(
    features: Features,
    context: Context,
    *,
    pca_dim: int | None,
    whitened: bool,
    clip: bool,
    pca_sample: int | None,
) -> "_Source":
    """Return the rows to cluster, through the stored PCA or a new one; see `group`."""
    if features.is_reduced:
        pca = read_pca(features.path.parent, whitened=whitened)
        return _Source(features, pca, context, None, is_checked=False)
    id_S = sample_ids(features.num_images, pca_sample, seed=context.seed, epoch=context.epoch)
    blocks = map(torch.from_numpy, _blocks_to_fit(features, id_S, context))
    held = _held(features, pca_dim, context) if id_S is None else None
    pca = fit_pca(
        blocks if held is None else held.passing(blocks),
        dim=pca_dim,
        whitened=whitened,
        clip=clip,
        num_rows=features.num_images if id_S is None else len(id_S),
        ranks=context.ranks,
        device=context.device,
    )
    # A PCA that is fitted to all rows has checked whether they are finite.
    return _Source(features, pca, context, held, is_checked=id_S is None)


def _blocks_to_fit(
    features: Features, id_S: RowIds | None, context: Context
) -> Iterator[NDArray[np.floating]]:
    """Yield this rank's part of the rows that the PCA is fitted to, in blocks of any size."""
    if id_S is not None:
        own = own_rows(len(id_S), context.ranks, unit=unit_rows(features.view_dim))
        return sampled_blocks(features, id_S[own.start : own.stop])
    own = _own(features, context)
    return features.blocks(rows=own, block_rows=_read_rows(features, context), view=0)


def _own(features: Features, context: Context) -> range:
    """Return the rows of this rank."""
    return own_rows(features.num_images, context.ranks, unit=unit_rows(features.view_dim))


def _read_rows(features: Features, context: Context) -> int:
    """Return how many rows to read at once: whole units of the PCA."""
    if context.device != "cpu":
        return block_rows(features.view_dim)
    unit = unit_rows(features.view_dim)
    return unit * max(1, BLOCK_BYTES // (4 * unit * features.dim))


def _seed(context: Context, number: int) -> int:
    """Return the seed of a clustering."""
    # It is named "kmeans" for every algorithm; a different name would change the results.
    names: list[str | int] = [context.epoch or 0, "cluster", "kmeans"]
    if number > 0:  # the first one keeps the seed that it has when there is one only
        names.append(number)
    return seeding.derive(context.seed, *names)


def _held(features: Features, pca_dim: int | None, context: Context) -> HeldRows | None:
    """Return what keeps the features of this rank's images on its GPU; None on a CPU."""
    if context.device == "cpu":
        return None
    own, dim = _own(features, context), features.view_dim
    num_bytes = len(own) * dim * features.dtype.itemsize
    # While the PCA is computed, and then while k-means has the projected rows; its k is not known
    # here, and is taken to be the paper's.
    kmeans_bytes = points_bytes(len(own), pca_dim or dim, k=10_000)
    kmeans_bytes += projection_bytes(len(own), dim)
    others_bytes = max(pca_bytes(features.num_images, dim), kmeans_bytes)
    return HeldRows(own, num_bytes=num_bytes, others_bytes=others_bytes, device=context.device)


class _Source:
    """The rows to cluster, which are projected, whitened and normalised when they are read."""

    def __init__(
        self,
        features: Features,
        pca: Pca,
        context: Context,
        held: HeldRows | None,
        *,
        is_checked: bool,
    ) -> None:
        """Move the PCA to the device, once rather than for each block of rows.

        Args:
            features: the stored features.
            pca: projects them; only whitens those that are stored reduced.
            context: device, and the folder for intermediate results.
            held: features of the first view that are on the device already, if any.
            is_checked: whether the PCA has checked that all rows are finite.
        """
        self.pca = pca
        self._features = features
        self._context = context
        self._held = held
        self._is_checked = is_checked
        self._width = len(pca.components_QD)
        moved = pca.to(torch.device(context.device))
        self._project = moved.of_components if features.is_reduced else moved.whiten

    def rows(self, view: int) -> Rows:
        """Return the rows of one view of each image."""
        features, scratch = self._features, self._context.scratch
        if self._context.device == "cpu":
            return Projected(
                features.num_images,
                self._width,
                lambda rows: self._read(rows, view),
                lambda raw_BD: self._project(torch.from_numpy(raw_BD)).numpy(),
                scratch,
            )
        return ProjectedOnDevice(
            features.num_images,
            self._width,
            lambda rows: self._read_on_device(rows, view),
            self._project,
            scratch,
        )

    def _read(
        self, rows: range, view: int, block_rows: int | None = None
    ) -> Iterator[NDArray[np.floating]]:
        """Yield features in blocks; raise FeatureError if one is not finite."""
        start = rows.start
        for block_BD in self._features.blocks(rows=rows, block_rows=block_rows, view=view):
            end = start + len(block_BD)
            if not self._is_checked:
                check_finite(block_BD, np.arange(start, end))
            yield block_BD
            start = end

    def _read_on_device(self, rows: range, view: int) -> Iterator[torch.Tensor]:
        """Yield features in blocks on the device."""
        # What is held is what the PCA has read, which is the first view.
        kept = self._held.read(rows) if self._held is not None and view == 0 else None
        if kept is not None:
            yield from kept
            return
        for block_BD in self._read(rows, view, _read_rows(self._features, self._context)):
            yield torch.from_numpy(block_BD).to(self._context.device)
