"""Turn stored features into clusters: PCA, whitening, L2 and the clusterer of the recipe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import in_clustering
from deepcluster_core.clustering.fit import Clustering, Fit
from deepcluster_core.clustering.moments import unit_rows
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.clustering.pca_sample import check_finite, sample_ids, sampled_blocks
from deepcluster_core.clustering.rows import Projected, RowIds
from deepcluster_core.clustering.stored_pca import read_pca
from deepcluster_core.context import Context
from deepcluster_core.progress import part_of
from deepcluster_core.ranks import Ranks, own_rows

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
    # A PCA that is fitted to all rows checks whether they are finite.
    is_checked = False
    if features.is_reduced:
        pca = read_pca(features.path.parent, whitened=whitened)
    else:
        id_S = sample_ids(features.num_images, pca_sample, seed=context.seed, epoch=context.epoch)
        is_checked = id_S is None
        pca = fit_pca(
            map(torch.from_numpy, _blocks_to_fit(features, id_S, context.ranks)),
            dim=pca_dim,
            whitened=whitened,
            clip=clip,
            num_rows=features.num_images if id_S is None else len(id_S),
            ranks=context.ranks,
            device=context.device,
        )
    # The features are read again for each clustering, now through the projection.
    fits: list[Fit] = []
    for number, clusterer in enumerate(clusterers):
        fit = clusterer.fit(
            _projected(features, number % features.views, pca, context, is_checked=is_checked),
            seed=_seed(context, number),
            device=context.device,
            progress=part_of(context.progress, number, len(clusterers)),
            ranks=context.ranks,
        )
        fits.append(fit)
    return Grouping(pca, tuple(fits))


def _blocks_to_fit(
    features: Features, id_S: RowIds | None, ranks: Ranks
) -> Iterator[NDArray[np.floating]]:
    """Yield this rank's part of the rows that the PCA is fitted to, in blocks of any size."""
    unit = unit_rows(features.view_dim)
    if id_S is not None:
        own = own_rows(len(id_S), ranks, unit=unit)
        return sampled_blocks(features, id_S[own.start : own.stop])
    own = own_rows(features.num_images, ranks, unit=unit)
    # As many whole units as are fast to read at once.
    block_rows = unit * max(1, BLOCK_BYTES // (4 * unit * features.dim))
    return features.blocks(rows=own, block_rows=block_rows, view=0)


def _seed(context: Context, number: int) -> int:
    """Return the seed of a clustering."""
    # It is named "kmeans" for every algorithm; a different name would change the results.
    names: list[str | int] = [context.epoch or 0, "cluster", "kmeans"]
    if number > 0:  # the first one keeps the seed that it has when there is one only
        names.append(number)
    return seeding.derive(context.seed, *names)


def _projected(
    features: Features, view: int, pca: Pca, context: Context, *, is_checked: bool
) -> Projected:
    """Return the rows to cluster, which are projected, whitened and normalised when read.

    Unless the PCA has checked all of them, it is checked whether they are finite.
    """
    device = context.device
    on_device = pca.to(device)  # moved once rather than for each block of rows

    def read(rows: range) -> Iterator[NDArray[np.floating]]:
        start = rows.start
        for block_BD in features.blocks(rows=rows, view=view):
            end = start + len(block_BD)
            if not is_checked:
                check_finite(block_BD, np.arange(start, end))
            yield block_BD
            start = end

    def project(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
        raw = torch.from_numpy(raw_BD).to(device)
        whiten = on_device.of_components if features.is_reduced else on_device.whiten
        return whiten(raw).cpu().numpy()

    width = len(pca.components_QD)
    return Projected(features.num_images, width, read, project, context.scratch)
