"""The projection head between the feature and the classifier. Suffixes: N images, D values."""

from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core.models.config import ProjectionConfig


class Projection(nn.Sequential):
    """Linear, batch normalisation, ReLU, linear; the output has length 1."""

    def __init__(self, in_dim: int, config: ProjectionConfig) -> None:
        super().__init__(
            nn.Linear(in_dim, config.hidden),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.dim),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return embedding_ND of length 1."""
        return functional.normalize(super().forward(input))
