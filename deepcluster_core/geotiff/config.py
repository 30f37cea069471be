"""How a scene is cut into windows."""

from typing import Annotated, Self

from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from deepcluster_core.config import StrictConfig


class TileConfig(StrictConfig):
    """How a scene is cut into square windows, each of which is an image."""

    size: PositiveInt = 256
    """Side of a window in pixels of the scene. Our choice, as `dataset.shorter_side`."""

    stride: PositiveInt | None = None
    """Pixels from one window to the next, in both directions. None: `size`, so that the windows
    touch."""

    bands: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Numbers of the bands to use, from 1, in the order of the channels. None: all bands but
    those of transparency."""

    range: tuple[FiniteFloat, FiniteFloat] | None = None
    """The values that become black and white, the same for all bands, windows and scenes; values
    outside are cut off. None: keep the values, which must then be whole numbers from 0 to 65535."""

    skip_empty: float = Field(default=0.5, ge=0, le=1)
    """Leave a window out if more than this share of its pixels, 0 to 1, has no data. Windows
    without any data are always left out. Our choice."""

    @model_validator(mode="after")
    def _range_ascends(self) -> Self:
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("range: the value of black comes first, then a larger one of white")
        return self

    @property
    def step(self) -> int:
        """Pixels from one window to the next."""
        return self.stride or self.size
