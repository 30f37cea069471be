"""The settings of power iteration clustering. Importing this needs no numerical library."""

from pydantic import Field, FiniteFloat, PositiveInt

from deepcluster_core.config import StrictConfig


class PicConfig(StrictConfig):
    """Settings of `Pic`, where they are explained. Defaults: the authors' released code."""

    neighbours: PositiveInt = 5
    """Edges from each row."""

    sigma: FiniteFloat = Field(default=0.2, gt=0)
    """Width of the kernel, in distances between rows of length 1: 0 to 2."""

    alpha: float = Field(default=0.001, gt=0, lt=1)
    """Share of the start in every iteration."""

    iterations: PositiveInt = 200
    """Steps of the power iteration."""
