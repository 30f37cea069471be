"""Random changes of brightness, contrast, saturation and hue, and the loss of colour.

Suffixes: B views, S side of the view in pixels, C channels, V the 256 values of a pixel,
R random numbers of a view.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.data.augment_config import ColourConfig
from deepcluster_core.data.deep_values import Pixels

Floats = NDArray[np.float64]

COLOUR_DRAWS = 8
"""Random numbers for a view: four strengths, whether they apply, whether it becomes grey, and 2
unused."""
LUMA_3 = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in the grey of a pixel (ITU-R BT.601), as in Pillow."""


@dataclass(frozen=True)
class ColourChange:
    """How the colours of each view of a batch change: x becomes scale (mix x) + shift."""

    scale_B: Floats
    shift_B: Floats
    """In units of a pixel's value, 0 to 255."""
    mix_B33: Floats | None
    """Mixes red, green and blue. Rows have sum 1, so greys stay; None: channels are not mixed."""

    def affected(self) -> NDArray[np.intp]:
        """Return the numbers of the views that change."""
        effect_B = (self.scale_B != 1) | (self.shift_B != 0)
        if self.mix_B33 is not None:
            effect_B |= (self.mix_B33 != np.eye(3)).any(axis=(1, 2))
        return np.flatnonzero(effect_B)


def change_colours(views_BSSC: Pixels, draws_BR: Floats, colour: ColourConfig) -> None:
    """Change the colours of views in place.

    The four changes of torchvision's ColorJitter are one affine map here, applied with one rounding
    and one clip. Without clipping they commute, because each of them maps grey to grey and all but
    brightness keep the mean grey; so there is no random order as in ColorJitter. Two deviations:

    - Values are clipped once, not after each change.
    - The hue turns about the grey axis at constant luma, not in HSV at constant value. The hue that
      HSV has for the result is within 3 degrees of ColorJitter's, but light colours stay light and
      dark ones dark.

    Args:
        views_BSSC: views; three channels are red, green and blue.
        draws_BR: random numbers 0 to 1, (B, 8), independent of those for crops.
        colour: strengths and probabilities; see `check_channels` for its keys that need three
            channels.
    """
    change = colour_change(mean_greys(views_BSSC), draws_BR, colour, views_BSSC.shape[3])
    for number in change.affected():
        view_SSC = views_BSSC[number]
        scale, shift = change.scale_B[number], change.shift_B[number]
        if change.mix_B33 is None:
            _scale(view_SSC, scale, shift)
        else:
            _mix(view_SSC, scale * change.mix_B33[number], shift)


def colour_change(
    grey_B: Floats, draws_BR: Floats, colour: ColourConfig, channels: int
) -> ColourChange:
    """Return the changes that random numbers stand for.

    Args:
        grey_B: mean grey of each view, 0 to 255.
        draws_BR: random numbers, 0 to 1.
        colour: strengths and probabilities.
        channels: number of channels of the views.
    """
    applies_B = draws_BR[:, 4] < colour.probability
    brightness_B = _factors(draws_BR[:, 0], colour.brightness, applies_B)
    contrast_B = _factors(draws_BR[:, 1], colour.contrast, applies_B)
    scale_B = brightness_B * contrast_B
    shift_B = brightness_B * (1 - contrast_B) * grey_B
    if channels != 3 or not mixes_channels(colour):
        return ColourChange(scale_B, shift_B, None)
    saturation_B = _factors(draws_BR[:, 2], colour.saturation, applies_B)
    turn_B = np.where(applies_B, colour.hue * (2 * draws_BR[:, 3] - 1), 0.0)
    # A view without colour keeps its luma; its hue no longer matters.
    saturation_B = np.where(draws_BR[:, 5] < colour.grey, 0.0, saturation_B)
    saturation_B11 = saturation_B[:, None, None]
    mix_B33 = saturation_B11 * hue_matrices(turn_B) + (1 - saturation_B11) * LUMA_3
    return ColourChange(scale_B, shift_B, mix_B33)


def mixes_channels(colour: ColourConfig) -> bool:
    """Return whether a channel of the result depends on the others of the view."""
    return colour.saturation > 0 or colour.hue > 0 or colour.grey > 0


def hue_matrices(turn_B: Floats) -> Floats:
    """Return (B, 3, 3) matrices that turn the hue and keep greys and the luma of each colour.

    A turn by a third makes red green, green blue and blue red.

    Args:
        turn_B: angles in turns, positive from red to green.
    """
    angle_B11 = 2 * np.pi * turn_B[:, None, None]
    # Rotation about the grey axis (Rodrigues), on which HSV's hexagon of colours is regular.
    grey_33 = np.full((3, 3), 1 / 3)
    quarter_33 = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    chroma_33 = np.eye(3) - grey_33
    rotation_B33 = grey_33 + np.cos(angle_B11) * chroma_33 + np.sin(angle_B11) * quarter_33
    # Add equally to the three channels what the luma has lost.
    lost_B3 = LUMA_3 - LUMA_3 @ rotation_B33
    # No turn is the identity exactly, so that these views are left alone.
    turned_B33 = rotation_B33 + lost_B3[:, None, :]
    return np.where(angle_B11 == 0, np.eye(3), turned_B33)


def mean_greys(views_BSSC: Pixels) -> Floats:
    """Return the mean grey of each view, 0 to 255: the mean luma, or the mean of other channels."""
    _, side, _, channels = views_BSSC.shape
    sum_BSC = np.add.reduce(views_BSSC, axis=1, dtype=np.uint32)  # ten times as fast as `mean`
    mean_BC = sum_BSC.sum(axis=1, dtype=np.int64) / side**2
    return mean_BC @ LUMA_3 if channels == 3 else mean_BC.mean(axis=1)


def _factors(draws_B: Floats, strength: float, applies_B: NDArray[np.bool_]) -> Floats:
    """Return factors between 1 - strength and 1 + strength, or 1 where they do not apply."""
    factors_B = 1 + strength * (2 * draws_B - 1)
    return np.where(applies_B, factors_B, 1.0)


def _scale(view_SSC: Pixels, scale: float, shift: float) -> None:
    """Set each value x of a view to scale x + shift, rounded and clipped."""
    values_V = np.floor(scale * np.arange(256) + shift + 0.5)
    table_V = np.clip(values_V, 0, 255).astype(np.uint8)
    view_SSC[:] = np.take(table_V, view_SSC)


def _mix(view_SS3: Pixels, matrix_33: Floats, shift: float) -> None:
    """Set each colour x of a view to matrix x + shift, rounded and clipped.

    Pillow takes 0.2 ms for 224 px, NumPy and torch two to four times as long.
    """
    matrix_34 = np.column_stack((matrix_33, np.full(3, shift)))
    # 12 numbers for an image of three channels.
    matrix = cast("tuple[float, ...]", tuple(matrix_34.ravel().tolist()))
    mixed = Image.fromarray(view_SS3).convert("RGB", matrix)  # pyright: ignore[reportArgumentType]
    view_SS3[:] = np.asarray(mixed)
