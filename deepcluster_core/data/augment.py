"""The views of a training step: several kinds of random crops, each with its augmentations.

Suffixes: B images, S side of the view in pixels, C channels, X views of all images of a kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.data.augment_config import BlurConfig, ColourConfig, NoiseConfig
from deepcluster_core.data.blur import BLUR_DRAWS, blur_some
from deepcluster_core.data.colour import COLOUR_DRAWS, change_colours
from deepcluster_core.data.deep_values import Pixels
from deepcluster_core.data.noise import NOISE_DRAWS, add_noise
from deepcluster_core.data.orientation import ORIENTATION_DRAWS, orient
from deepcluster_core.data.views import (
    FLIP_DRAW,
    RandomCrop,
    augmentation_draws,
    random_boxes,
    random_views,
)


@dataclass(frozen=True)
class ViewKind:
    """One kind of view."""

    count: int
    """Views of this kind of each image in a step."""
    size: int
    """Side of the view in pixels."""
    crop: RandomCrop


@dataclass(frozen=True)
class Augmentation:
    """What happens to views of all kinds after the crop. By default, nothing."""

    flip_vertical: float = 0.0
    """Probability of a vertical flip, 0 to 1."""
    turn: float = 0.0
    """Probability of a turn by 90, 180 or 270 degrees, 0 to 1."""
    colour: ColourConfig | None = None
    blur: BlurConfig | None = None
    noise: NoiseConfig | None = None

    @property
    def can_change(self) -> bool:
        """Whether a view can be changed; probabilities and strengths of 0 leave all as they are."""
        sections = (self.colour, self.blur, self.noise)
        is_moved = self.flip_vertical > 0 or self.turn > 0
        return is_moved or any(one is not None and one.can_change for one in sections)


@dataclass(frozen=True)
class Views:
    """The random views of an epoch; each depends only on (seed, view, position)."""

    kinds: tuple[ViewKind, ...]
    augmentation: Augmentation
    seed: int
    """Differs from epoch to epoch."""

    @property
    def num_views(self) -> tuple[int, ...]:
        """Number of views of each kind."""
        return tuple(kind.count for kind in self.kinds)

    @property
    def are_only_crops(self) -> bool:
        """Whether a view is the part of an image in a box, resized and perhaps flipped."""
        return not self.augmentation.can_change

    def boxes(
        self, height_B: NDArray[np.int64], width_B: NDArray[np.int64], start: int
    ) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Return the boxes (count B, 4) of each kind of view, and whether each one is flipped.

        Args:
            height_B: heights of the images at positions `start`, `start` + 1, … of the epoch.
            width_B: their widths.
            start: position of the first image.
        """
        found: list[tuple[NDArray[np.int64], NDArray[np.bool_]]] = []
        view = 0
        for kind in self.kinds:
            boxes: list[NDArray[np.int64]] = []
            flipped: list[NDArray[np.bool_]] = []
            for number in range(view, view + kind.count):
                draws_BR = augmentation_draws(self._seed_of(number), start, len(height_B))
                boxes.append(random_boxes(height_B, width_B, draws_BR, kind.crop))
                flipped.append(draws_BR[:, FLIP_DRAW] < kind.crop.flip)
            found.append((np.concatenate(boxes), np.concatenate(flipped)))
            view += kind.count
        return found

    def of_images(self, images: Sequence[Pixels], start: int, channels: int) -> tuple[Pixels, ...]:
        """Return one uint8 array (count B, S, S, C) for each kind: row v B + b is view v of b.

        Args:
            images: B arrays (H, W, C); those at positions `start`, `start` + 1, … of the epoch.
            start: position of the first image.
            channels: C, for an empty list of images.
        """
        arrays: list[Pixels] = []
        view = 0  # numbered over all kinds
        for kind in self.kinds:
            shape = (kind.count * len(images), kind.size, kind.size, channels)
            views_XSSC = np.empty(shape, np.uint8)
            for number in range(kind.count if images else 0):
                rows = slice(number * len(images), (number + 1) * len(images))
                self._draw(images, start, view + number, kind, views_XSSC[rows])
            view += kind.count
            arrays.append(views_XSSC)
        return tuple(arrays)

    def _draw(
        self, images: Sequence[Pixels], start: int, view: int, kind: ViewKind, out_BSSC: Pixels
    ) -> None:
        """Draw one view of each image."""
        seed = self._seed_of(view)
        draws_BR = augmentation_draws(seed, start, len(images))
        random_views(images, draws_BR, kind.crop, size=kind.size, out_BSSC=out_BSSC)
        augment(out_BSSC, self.augmentation, seed=seed, start=start)

    def _seed_of(self, view: int) -> int:
        # The first view has the seed itself, so that DeepCluster's only view is what it was.
        return self.seed if view == 0 else seeding.derive(self.seed, view)


def augment(views_BSSC: Pixels, augmentation: Augmentation, *, seed: int, start: int) -> None:
    """Augment views in place. Each augmentation draws from its own stream.

    Switching one on or off therefore does not change the random numbers of the others.

    Args:
        views_BSSC: one view of each image.
        augmentation: what happens to them.
        seed: the seed of this view in this epoch.
        start: position of the first image in the epoch.
    """

    def draws_of(purpose: str, columns: int) -> np.ndarray:
        stream = seeding.derive(seed, purpose)
        return augmentation_draws(stream, start, len(views_BSSC), columns=columns)

    flip_vertical, turn = augmentation.flip_vertical, augmentation.turn
    if flip_vertical > 0 or turn > 0:
        draws_BR = draws_of("orientation", ORIENTATION_DRAWS)
        orient(views_BSSC, draws_BR, flip_vertical=flip_vertical, turn=turn)
    if augmentation.colour is not None:
        draws_BR = draws_of("colour", COLOUR_DRAWS)
        change_colours(views_BSSC, draws_BR, augmentation.colour)
    if augmentation.blur is not None:
        blur_some(views_BSSC, draws_of("blur", BLUR_DRAWS), augmentation.blur)
    if augmentation.noise is not None:
        add_noise(views_BSSC, draws_of("noise", NOISE_DRAWS), augmentation.noise)
