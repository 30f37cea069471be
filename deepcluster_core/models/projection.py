"""The projection head of DeepCluster-v2 (Caron et al. 2020). Suffixes: N images, D values."""

from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core.models.config import ProjectionConfig


class UnitLength(nn.Module):
    """Divides each row by its length, in float32; a row of zeros stays."""

    def forward(self, values_ND: Tensor) -> Tensor:
        """Return rows of length 1."""
        # Not in bfloat16, whose squares have too few digits for a length of 1.
        return functional.normalize(values_ND.float(), dim=1)


def projection_head(config: ProjectionConfig, *, in_dim: int) -> nn.Sequential:
    """Return linear, batch normalisation, ReLU, linear, and a scaling to length 1.

    The structure is that of appendix A.1. The linear layers are initialised as torch does by
    default, because the paper does not say; the weights are drawn from torch's global generator.

    Args:
        config: widths of both linear layers.
        in_dim: number of values of the input.
    """
    return nn.Sequential(
        nn.Linear(in_dim, config.hidden),
        nn.BatchNorm1d(config.hidden),
        nn.ReLU(inplace=True),
        nn.Linear(config.hidden, config.dim),
        UnitLength(),
    )
