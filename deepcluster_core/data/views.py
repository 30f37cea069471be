"""Crops of an image: the central one for extraction and random ones for training.

Suffixes: B images of a batch, H and W of an image, S side of the view in pixels, C channels,
R random numbers of an image, A attempts, X rows of a band.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core.data.resize import Pixels, resize

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are exclusive."""

ATTEMPTS = 10
"""Number of random boxes that are tried for an image."""
SERIAL = 32_000
"""Values up to which torch is expected to use one thread; its own limit is 32,768."""
DRAWS = 24
"""Random numbers for an image: 10 areas, 10 aspect ratios, left, top, flip and 1 unused."""
LEFT_DRAW, TOP_DRAW, FLIP_DRAW = 20, 21, 22
"""Columns of the random numbers that decide about the position and the flip."""


@dataclass(frozen=True)
class RandomCrop:
    """The augmentation of section 3.4: crops of random size and aspect ratio, and flips."""

    area: tuple[float, float]
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float]
    """Smallest and largest width / height."""
    flip: float
    """Probability of a horizontal flip, 0 to 1."""


def center_view(image_HWC: Pixels, *, resize: int, size: int) -> Pixels:
    """Return the (S, S, C) centre of an image: Resize(resize), then CenterCrop(size), in one step.

    Args:
        image_HWC: an image of any size.
        resize: length of the shorter side before the crop, in pixels.
        size: side of the crop in pixels, at most `resize`.
    """
    height, width = image_HWC.shape[:2]
    box = center_box(height, width, resize=resize, size=size)
    return crop_resized(image_HWC, box, size)


def center_box(height: int, width: int, *, resize: int, size: int) -> Box:
    """Return the part of an image of this height and width that `center_view` shows."""
    side = max(1, round(min(height, width) * size / resize))
    # Rounded as in torchvision.
    left = round((width - side) / 2)
    top = round((height - side) / 2)
    return left, top, left + side, top + side


def center_boxes(
    height_B: NDArray[np.int64], width_B: NDArray[np.int64], *, resize: int, size: int
) -> NDArray[np.int64]:
    """Return `center_box` of many images: (B, 4), each row a `Box`."""
    side_B = np.rint(np.minimum(height_B, width_B) * size / resize).astype(np.int64)
    side_B = np.maximum(side_B, 1)
    left_B = np.rint((width_B - side_B) / 2).astype(np.int64)
    top_B = np.rint((height_B - side_B) / 2).astype(np.int64)
    return np.stack((left_B, top_B, left_B + side_B, top_B + side_B), axis=1)


def random_views(
    images: Sequence[Pixels],
    draws_BR: NDArray[np.float64],
    crop: RandomCrop,
    *,
    size: int,
    out_BSSC: Pixels | None = None,
) -> Pixels:
    """Return random crops (B, S, S, C) of images, some flipped, from given random numbers.

    Args:
        images: B arrays (H, W, C), each of any size.
        draws_BR: a row of `augmentation_draws` for each image.
        crop: distribution of the crops.
        size: side of the crops in pixels.
        out_BSSC: an array to write them into and to return; None: a new one.
    """
    if out_BSSC is None:
        out_BSSC = np.empty((len(images), size, size, images[0].shape[2]), np.uint8)
    height_B = np.array([image_HWC.shape[0] for image_HWC in images])
    width_B = np.array([image_HWC.shape[1] for image_HWC in images])
    boxes = random_boxes(height_B, width_B, draws_BR, crop).tolist()
    flipped_B = draws_BR[:, FLIP_DRAW] < crop.flip
    for number, (image_HWC, box) in enumerate(zip(images, boxes, strict=True)):
        out_BSSC[number] = crop_resized(image_HWC, tuple(box), size)
        if flipped_B[number]:
            _mirror(out_BSSC[number])
    return out_BSSC


def _mirror(view_SSC: Pixels) -> None:
    """Flip a view horizontally in place, with torch, because NumPy takes six times as long.

    This is done in bands, because torch uses more threads above `SERIAL` values. While
    a network trains, these threads cost twice as much as the loading itself.
    """
    values_in_row = view_SSC[0].size
    rows = max(1, SERIAL // values_in_row)
    for top in range(0, len(view_SSC), rows):
        band_XSC = torch.from_numpy(view_SSC[top : top + rows])
        band_XSC.copy_(band_XSC.flip(1))


def augmentation_draws(
    seed: int, start: int, count: int, *, columns: int = DRAWS
) -> NDArray[np.float64]:
    """Return the random numbers, 0 to 1, of positions `start` to `start + count` of an epoch.

    The numbers of a position depend only on (seed, position), because the generator is
    counter-based and can start anywhere. They do not change with the batch size or on resuming.

    Args:
        seed: seed of the stream, 0 to 2**63 - 1.
        start: the first position.
        count: number of positions.
        columns: random numbers of a position; a multiple of four.

    Returns:
        (count, columns) float64.
    """
    stream = np.random.Philox(key=seed)
    stream.advance(start * columns // 4)  # one step of Philox yields four numbers
    return np.random.Generator(stream).random((count, columns))


def random_boxes(
    height_B: NDArray[np.integer],
    width_B: NDArray[np.integer],
    draws_BR: NDArray[np.float64],
    crop: RandomCrop,
) -> NDArray[np.int64]:
    """Return, for each image, the first of ten random boxes that fits, or a large central one.

    The distribution is that of torchvision's RandomResizedCrop: the area, the logarithm of the
    aspect ratio and the position are uniform.

    Returns:
        (B, 4), each row a `Box`.
    """
    height_BA, width_BA = _random_sizes(height_B * width_B, draws_BR, crop)
    # Choose the first box of each image that is not empty and fits into the image.
    fits_BA = (width_BA > 0) & (width_BA <= width_B[:, None])
    fits_BA &= (height_BA > 0) & (height_BA <= height_B[:, None])
    rows_B = np.arange(len(draws_BR))
    first_B = fits_BA.argmax(axis=1)
    box_width_B = width_BA[rows_B, first_B]
    box_height_B = height_BA[rows_B, first_B]
    # Draw its position.
    num_lefts_B = width_B - box_width_B + 1
    num_tops_B = height_B - box_height_B + 1
    left_B = (draws_BR[:, LEFT_DRAW] * num_lefts_B).astype(np.int64)
    top_B = (draws_BR[:, TOP_DRAW] * num_tops_B).astype(np.int64)
    right_B = left_B + box_width_B
    bottom_B = top_B + box_height_B
    box_B4 = np.stack((left_B, top_B, right_B, bottom_B), axis=1).astype(np.int64)
    # Replace the boxes of images for which none fits.
    fits_none_B = ~fits_BA.any(axis=1)
    for number in np.flatnonzero(fits_none_B):
        height = int(height_B[number])
        width = int(width_B[number])
        box_B4[number] = _central_box(height, width, crop.ratio)
    return box_B4


def _random_sizes(
    image_area_B: NDArray[np.integer], draws_BR: NDArray[np.float64], crop: RandomCrop
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the heights and widths (B, A) of the boxes of all attempts, in whole pixels."""
    min_share, max_share = crop.area
    area_draws_BA = draws_BR[:, :ATTEMPTS]
    share_BA = min_share + (max_share - min_share) * area_draws_BA
    area_BA = image_area_B[:, None] * share_BA
    # The logarithm is uniform, so that 3/4 is as likely as 4/3.
    min_ratio, max_ratio = crop.ratio
    min_log = np.log(min_ratio)
    max_log = np.log(max_ratio)
    ratio_draws_BA = draws_BR[:, ATTEMPTS : 2 * ATTEMPTS]
    ratio_BA = np.exp(min_log + (max_log - min_log) * ratio_draws_BA)
    width_BA = np.rint(np.sqrt(area_BA * ratio_BA))
    height_BA = np.rint(np.sqrt(area_BA / ratio_BA))
    return height_BA, width_BA


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """Return the largest central box whose aspect ratio is allowed."""
    min_ratio, max_ratio = ratio
    max_width = max(1, round(height * max_ratio))
    max_height = max(1, round(width / min_ratio))
    box_width = min(width, max_width)
    box_height = min(height, max_height)
    left = (width - box_width) // 2
    top = (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def crop_resized(image_HWC: Pixels, box: Box, size: int) -> Pixels:
    """Return the part of an image in `box`, resized to (S, S, C)."""
    left, top, right, bottom = box
    part_HWC = image_HWC[top:bottom, left:right]
    return resize(part_HWC, (size, size))
