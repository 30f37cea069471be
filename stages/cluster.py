"""Cluster: features -> labels. PCA, whitening, L2, k-means: every image gets a pseudo-label."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.manifest import Stage
from deepcluster_core.artifacts.tables import CLUSTERING, LABELS, write_labels
from deepcluster_core.clustering.kmeans import kmeans
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.errors import FeatureError

STAGE = Stage(
    name="cluster", version=1, kind="labels", files=(LABELS, CLUSTERING), reads=("cluster",)
)


class ClusterConfig(StrictConfig):
    """How features are grouped. Defaults: section 3.4."""

    k: Annotated[int, Field(ge=2)] | Literal["auto"] = 10_000
    """Clusters. Ten per class of ImageNet was best, figure 2(c). auto: see `Sizes`."""

    pca_dim: PositiveInt | Literal["auto"] = 256
    """Dimensions that the PCA keeps. auto: see `Sizes`."""

    whiten: bool = True
    """Scale each kept dimension to variance one."""

    iterations: PositiveInt = 20
    """Of k-means; the number of the authors' code."""

    max_points_per_centroid: PositiveInt | None = None
    """k-means learns its centroids from a random k times as many images, at most; all images are
    assigned to them. None: from all images, as the paper."""


@dataclass(frozen=True)
class Sizes:
    """k and pca_dim as numbers, which `auto` leaves to the number of images.

    k: about 100 images a cluster, the paper's 1.28 M / 10,000 = 128 and our demo's 100; at least
    10 clusters where they would have 10 images each, at most the paper's 10,000.
    pca_dim: the paper's 256, but at most a quarter of the feature, a tenth of the images (whitening
    blows the last components of fewer up to noise) and the rank. Rules of ours, not the paper's.
    """

    k: int
    pca_dim: int

    @classmethod
    def of(cls, cluster: ClusterConfig, *, num_images: int, dim: int) -> "Sizes":
        """Return the sizes for so many images with features of `dim`.

        Raises:
            FeatureError: there are too few images.
        """
        k, pca_dim = cluster.k, cluster.pca_dim
        if k == "auto":
            k = max(2, min(10_000, max(num_images // 100, min(10, num_images // 10))))
        if pca_dim == "auto":
            pca_dim = max(1, min(256, dim // 4, num_images // 10))
        for key, value, least in (("k", k, k), ("pca_dim", pca_dim, pca_dim + 1)):
            if num_images < least:
                raise FeatureError(
                    f"cluster.{key}: {value} needs at least {least} images, but there are "
                    f"{num_images}.\n  Fix: --set cluster.{key}=auto, or add images."
                )
        return cls(k, pca_dim)


def run(
    *, cluster: ClusterConfig, images: Path, features: Path, out: Path, context: Context
) -> None:
    """Write the labels artifact, with the PCA and the centroids beside the table."""
    with new_artifact(
        STAGE,
        out,
        config={"cluster": cluster},
        inputs={"images": images, "features": features},
        context=context,
    ) as draft:
        stored = Features(features)
        sizes = Sizes.of(cluster, num_images=stored.num_images, dim=stored.dim)
        blocks = map(torch.from_numpy, stored.blocks())
        pca = fit_pca(
            blocks,
            dim=sizes.pca_dim,
            whitened=cluster.whiten,
            clip=cluster.pca_dim == "auto",
            device=context.device,
        )
        fit = kmeans(
            _reduced(stored, pca, context.device),
            k=sizes.k,
            iterations=cluster.iterations,
            seed=seeding.derive(context.seed, context.epoch or 0, "cluster", "kmeans"),
            max_points_per_centroid=cluster.max_points_per_centroid,
            gpu=context.device.startswith("cuda"),
            progress=context.progress,
        )
        write_labels(
            out,
            images=images,
            cluster_N=fit.cluster_N,
            distance_N=fit.distance_N,
            clustering={
                "pca_mean": pca.mean_D.numpy(),
                "pca_components": pca.components_QD.numpy(),
                "pca_eigenvalues": pca.eigenvalues_Q.numpy(),
                "centroids": fit.centroids_KQ,
            },
        )
        draft.rows = stored.num_images
        draft.facts = {
            "k": sizes.k,
            "pca_dim": len(pca.components_QD),
            "empty": fit.num_empty,
            "objective": fit.objective,
            "effective_rank": pca.effective_rank,
        }


def _reduced(stored: Features, pca: Pca, device: str) -> NDArray[np.float32]:
    """Return all rows projected, whitened and of length one: (N, pca_dim), the one big array."""
    rows_NQ = np.empty((stored.num_images, len(pca.components_QD)), np.float32)
    start = 0
    for block_BD in stored.blocks():
        whitened_BQ = pca.whiten(torch.from_numpy(block_BD).to(device))
        rows_NQ[start : start + len(block_BD)] = whitened_BQ.cpu().numpy()
        start += len(block_BD)
    return rows_NQ
