"""The views of linear classification: a random crop to train on, five or ten fixed ones to judge.

`training_views` and `fixed_crops` make views in main memory. `training_cut` and `fixed_cut`
describe the same views to a device, which does not round them to uint8.

Suffixes: B images of a batch, V views of an image, H and W of an image, S side of a view in
pixels, C channels, R random numbers of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.resize import Pixels, resize
from deepcluster_core.data.views import center_boxes, center_view
from deepcluster_core.device_feed.crops import Cut, Windows

LEFT, TOP, FLIP = 20, 21, 22  # columns of `augmentation_draws`
Sides = NDArray[np.int64]
"""Heights or widths of the images of a batch, pixels."""


@dataclass(frozen=True)
class Views:
    """The settings by which images become views for classifiers."""

    resize: int
    """Length to which the shorter side is resized, pixels; at least `size`."""
    size: int
    """Side of a view, S."""
    random_crop: bool
    """Whether training crops lie anywhere in the central square, or always in its centre."""
    flip: float
    """Probability, 0 to 1, that a training crop is mirrored. At 0, the mirrored fixed crops are
    left out, too."""

    @property
    def are_fixed(self) -> bool:
        """Whether the training view of an image is identical in every epoch."""
        return not self.random_crop and self.flip == 0

    @property
    def num_crops(self) -> int:
        """Number of views V that `fixed_crops` returns."""
        return 10 if self.flip > 0 else 5


def training_views(images: Sequence[Pixels], draws_BR: NDArray[np.float64], views: Views) -> Pixels:
    """Return views (B, S, S, C): Resize, CenterCrop to a square, RandomCrop, horizontal flip.

    All crops have one scale, as in the released code, unlike the crops that train the network.

    Args:
        images: B arrays (H, W, C), each of any size.
        draws_BR: random numbers from `augmentation_draws`, a row per image.
        views: settings of the views.
    """
    size = views.size
    channels = images[0].shape[2]
    shape = (len(images), size, size, channels)
    views_BSSC = np.empty(shape, np.uint8)

    left_B, top_B = _starts(draws_BR, views)
    # A step of -1 along the columns mirrors the view.
    is_flipped_B = draws_BR[:, FLIP] < views.flip
    step_B = np.where(is_flipped_B, -1, 1)
    places = zip(images, left_B, top_B, step_B, strict=True)
    for number, (image_HWC, left, top, step) in enumerate(places):
        if views.random_crop:
            square_HWC = center_view(image_HWC, resize=views.resize, size=views.resize)
            view_SSC = _square(square_HWC, top, left, size)
        else:
            view_SSC = center_view(image_HWC, resize=views.resize, size=size)
        views_BSSC[number] = view_SSC[:, ::step]
    return views_BSSC


def training_cut(
    height_B: Sides, width_B: Sides, draws_BR: NDArray[np.float64], views: Views
) -> Cut:
    """Describe to a device the views that `training_views` makes of images of these sizes."""
    flipped_B = draws_BR[:, FLIP] < views.flip
    if not views.random_crop:
        box_B4 = center_boxes(height_B, width_B, resize=views.resize, size=views.size)
        return Cut(box_B4, flipped_B, views.size)
    box_B4 = center_boxes(height_B, width_B, resize=views.resize, size=views.resize)
    corner_B2 = np.stack(_starts(draws_BR, views), axis=1)
    resized_B2 = np.full_like(corner_B2, views.resize)
    return Cut(box_B4, flipped_B, views.size, Windows(resized_B2, corner_B2))


def _starts(draws_BR: NDArray[np.float64], views: Views) -> tuple[Sides, Sides]:
    """Return left_B and top_B of random crops in the central square."""
    # A draw below 1 becomes one of the margin + 1 possible starts of a crop.
    num_starts = views.resize - views.size + 1
    left_B = (draws_BR[:, LEFT] * num_starts).astype(np.int64)
    top_B = (draws_BR[:, TOP] * num_starts).astype(np.int64)
    return left_B, top_B


def fixed_crops(image_HWC: Pixels, views: Views) -> Pixels:
    """Return the four corners and the centre of an image, then their mirror images, (V, S, S, C).

    Table 1 of the paper averages over these ten crops of the resized image. The mirror images are
    left out if `views.flip` is 0.
    """
    size = views.size
    whole_HWC = with_shorter_side(image_HWC, views.resize)
    height, width = whole_HWC.shape[:2]
    corners = _five_corners(height, width, size)
    five_VSSC = np.stack([_square(whole_HWC, top, left, size) for left, top in corners])
    if views.flip == 0:
        return five_VSSC
    mirrored_VSSC = five_VSSC[:, :, ::-1]
    return np.concatenate((five_VSSC, mirrored_VSSC))


def fixed_cut(height_B: Sides, width_B: Sides, views: Views) -> Cut:
    """Describe to a device the views that `fixed_crops` makes, all of an image, then the next's."""
    boxes: list[tuple[int, int, int, int]] = []
    resized: list[tuple[int, int]] = []
    corners: list[tuple[int, int]] = []
    for height, width in zip(height_B.tolist(), width_B.tolist(), strict=True):
        new_height, new_width = _resized(height, width, views.resize)
        boxes += [(0, 0, width, height)] * views.num_crops
        resized += [(new_width, new_height)] * views.num_crops
        # The mirrored crops are the last five, if there are ten.
        corners += _five_corners(new_height, new_width, views.size) * (views.num_crops // 5)
    flipped_V = np.arange(views.num_crops) >= 5
    return Cut(
        np.array(boxes),
        np.tile(flipped_V, len(height_B)),
        views.size,
        Windows(np.array(resized), np.array(corners)),
    )


def _five_corners(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Return left and top of the crops in the four corners and in the centre of an image."""
    bottom = height - size
    right = width - size
    # Rounded as in torchvision.
    return [(0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2))]


def _square(image_HWC: Pixels, top: int, left: int, size: int) -> Pixels:
    bottom = top + size
    right = left + size
    return image_HWC[top:bottom, left:right]


def usual_resize(size: int) -> int:
    """Return the paper's shorter side for crops of `size`: 256 px for 224, and in proportion."""
    return round(size * 256 / 224)


def with_shorter_side(image_HWC: Pixels, side: int) -> Pixels:
    """Return an image resized so that its shorter side has `side` pixels."""
    height, width = image_HWC.shape[:2]
    return resize(image_HWC, _resized(height, width, side))


def _resized(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the height and width of an image after its shorter side was resized to `side`."""
    shorter = min(height, width)
    # torchvision rounds down, too.
    return side * height // shorter, side * width // shorter
