"""The keys of `train` that decide how views of an image differ. Importing this needs no torch."""

from typing import Annotated

from pydantic import Field, PositiveInt

from deepcluster_core.config import PositiveRange, ShareRange, StrictConfig

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=1)]
COLOUR_STRENGTHS = ("brightness", "contrast", "saturation", "hue", "grey")
"""Keys of `ColourConfig`; if all of them are 0, it changes nothing."""


class ViewsConfig(StrictConfig):
    """One kind of view: how many each image has in a step, and which part of it they show."""

    count: PositiveInt
    """Views of this kind of each image in a step."""

    size: PositiveInt
    """Side of the square view, pixels."""

    area: ShareRange
    """Smallest and largest share of the image that a view covers."""


class ColourConfig(StrictConfig):
    """Random changes of brightness and colour, as in SimCLR and SwAV."""

    brightness: Strength = 0.0
    """Largest relative change: 0.8 multiplies by 0.2 to 1.8. For any number of channels."""

    contrast: Strength = 0.0
    """Largest relative change of the distance to the mean grey of the view. For any number of
    channels."""

    saturation: Strength = 0.0
    """Largest relative change of the distance to grey. For three channels."""

    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest turn of the hue, in turns: 0.5 reaches every hue. For three channels."""

    probability: Probability = 0.8
    """Share of the views that these four change."""

    grey: Probability = 0.0
    """Share of the views that lose their colour. For three channels."""

    @property
    def has_strength(self) -> bool:
        """Whether anything changes, apart from `probability`."""
        return any(getattr(self, key) > 0 for key in COLOUR_STRENGTHS)

    @property
    def can_change(self) -> bool:
        """Whether a view can be changed."""
        return self.grey > 0 or (self.probability > 0 and self.has_strength)


class BlurConfig(StrictConfig):
    """Random Gaussian blur."""

    probability: Probability = 0.5
    """Share of the views that are blurred."""

    radius: PositiveRange = (0.1, 2.0)
    """Smallest and largest standard deviation, pixels of the view."""

    @property
    def can_change(self) -> bool:
        """Whether a view can be changed."""
        return self.probability > 0


class NoiseConfig(StrictConfig):
    """Random Gaussian noise, independent for each value."""

    probability: Probability = 0.5
    """Share of the views with noise."""

    deviation: PositiveRange = (0.01, 0.05)
    """Smallest and largest standard deviation, on a scale of 0 to 1."""

    @property
    def can_change(self) -> bool:
        """Whether a view can be changed."""
        return self.probability > 0


def coloured_keys(colour: ColourConfig) -> list[str]:
    """Return the keys that are set and have a meaning for three channels alone."""
    return [key for key in ("saturation", "hue", "grey") if getattr(colour, key) > 0]


def check_channels(colour: ColourConfig, channels: int) -> str | None:
    """Return what is wrong with `train.colour` for images of so many channels, or None."""
    if channels == 3:
        return None
    keys = coloured_keys(colour)
    if not keys:
        return None
    return (
        f"train.colour.{keys[0]}: colours have three channels, and dataset.channels is {channels}; "
        f"leave out {', '.join(keys)} (brightness and contrast are for any number of channels)"
    )
