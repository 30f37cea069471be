"""What classifies embeddings in training. Suffixes: D dims of an embedding, K clusters, M rows.

DeepCluster trains a new linear layer in every epoch; DeepCluster-v2 (Caron et al. 2020, appendix
D.1) takes the centroids of the clusters, which are not trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core import seeding
from deepcluster_core.errors import ConfigError


class Head(Protocol):
    """A module that classifies embeddings in each of H clusterings."""

    @property
    def has_prototypes(self) -> bool:
        """Whether its classes are points among the embeddings, and nothing of it is trained."""
        ...

    @property
    def as_module(self) -> nn.Module:
        """The module itself, which moves between devices and holds the trained weights."""
        ...

    def classify(self, embedding_MD: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (M, K) of each clustering."""
        ...


class Fresh(nn.Linear):
    """A linear layer for the clusters of one clustering, new in every epoch."""

    has_prototypes = False

    @classmethod
    def drawn(cls, dim: int, k: int, *, seed: int) -> Self:
        """Return a layer with weights of N(0, 0.01) and a bias of zero.

        Args:
            dim: D, the number of values of an embedding.
            k: number of clusters; output c is cluster c.
            seed: seed of the weights.
        """
        # Drawn on the CPU, so that a head has equal weights on every device.
        with seeding.torch_seeded(seed):
            head = cls(dim, k)
            nn.init.normal_(head.weight, 0, 0.01)
            nn.init.zeros_(head.bias)
        return head

    @property
    def as_module(self) -> nn.Module:
        """The layer itself."""
        return self

    def classify(self, embedding_MD: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (M, K), in the precision of the forward pass."""
        return (self(embedding_MD),)


class Prototypes(nn.Module):
    """Centroids of length 1 for each clustering, which stay as they are.

    A logit is the cosine of an embedding and a centroid, divided by the temperature; equations 8
    and 9. Embeddings are expected to have length 1, as the projection returns them.
    """

    has_prototypes = True

    def __init__(self, centroids: Sequence[NDArray[np.floating]], *, temperature: float) -> None:
        """Scale the centroids to length 1. They are not saved, because the labels hold them.

        Args:
            centroids: an array (K, D) for each clustering; row c is cluster c.
            temperature: divides the cosines, no unit.
        """
        super().__init__()
        self.temperature = temperature
        self._names = [f"centroids_{number}" for number in range(len(centroids))]
        for name, centroids_KD in zip(self._names, centroids, strict=True):
            wide_KD = torch.from_numpy(np.array(centroids_KD, np.float32))
            self.register_buffer(name, functional.normalize(wide_KD), persistent=False)

    @classmethod
    def of_labels(cls, labels: Path, *, dim: int, temperature: float) -> Self:
        """Return the centroids of a labels artifact.

        Centroids in whitened principal components, whose axes are orthonormal directions of the
        embeddings, are turned back to these. An embedding is then compared with them as it is,
        neither centred nor whitened.

        Args:
            labels: folder of the artifact.
            dim: D, the number of values of an embedding.
            temperature: divides the cosines, no unit.

        Raises:
            ConfigError: the centroids are not points among the embeddings.
        """
        # Imported here, because DeepCluster itself reads no tables when it trains.
        from deepcluster_core.artifacts.tables import centroids_of, read_clustering  # noqa: PLC0415

        centroids = centroids_of(labels)
        components_QD = read_clustering(labels).get("pca_components")
        if components_QD is not None:
            centroids = [centroids_KQ @ components_QD for centroids_KQ in centroids]
        width = centroids[0].shape[1]
        if width != dim:
            raise ConfigError(
                f"train.prototypes: the centroids in {labels} have {width} values, but the "
                f"embeddings have {dim}.\n"
                f"  Cause: the features that were clustered are not the embeddings\n"
                f"  Fix:   set extract.layer: projection."
            )
        return cls(centroids, temperature=temperature)

    @property
    def as_module(self) -> nn.Module:
        """The module itself."""
        return self

    def classify(self, embedding_MD: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (M, K) of each clustering, in float32."""
        # Cosines of bfloat16 have three digits, and the temperature multiplies their error.
        with torch.autocast(embedding_MD.device.type, enabled=False):
            scaled_MD = embedding_MD.float() / self.temperature
            return tuple(scaled_MD @ self.get_buffer(name).T for name in self._names)


def mean_cross_entropy(
    logits: Sequence[Tensor],
    cluster_HM: Tensor,
    second: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return loss_M, the cross entropy of each row, averaged over the clusterings, in nats.

    Args:
        logits: (M, K) for each clustering, in any precision.
        cluster_HM: int64, the cluster of each row in each clustering.
        second: second_HM, int64, a second cluster of each row, and share_HM, its share of the
            target. None: the first one has all of it.
    """
    # In float32: exponentials of bfloat16 logits are too coarse.
    if second is None:
        losses = [
            functional.cross_entropy(logits_MK.float(), cluster_M, reduction="none")
            for logits_MK, cluster_M in zip(logits, cluster_HM, strict=True)
        ]
        return torch.stack(losses).mean(dim=0)
    losses = []
    for logits_MK, cluster_M, second_M, share_M in zip(logits, cluster_HM, *second, strict=True):
        loss_MK = -functional.log_softmax(logits_MK.float(), dim=1)
        of_both_M2 = loss_MK.gather(1, torch.stack([cluster_M, second_M], dim=1))
        losses.append(torch.lerp(of_both_M2[:, 0], of_both_M2[:, 1], share_M))
    return torch.stack(losses).mean(dim=0)
