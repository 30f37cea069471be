"""The two views of an image: the central crop that is clustered, the random crop that trains.

Suffixes: B images of a batch, H and W of an image, S side of the view in pixels, C channels,
R random numbers of an image, A attempts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""

ATTEMPTS = 10
DRAWS = 24  # an image's share of the stream: 10 areas, 10 aspect ratios, left, top, flip, 1 unused


@dataclass(frozen=True)
class RandomCrop:
    """Section 3.4: crops of random sizes and aspect ratios, and horizontal flips."""

    area: tuple[float, float]
    """Least and greatest share of the image's area."""
    ratio: tuple[float, float]
    """Least and greatest width / height."""
    flip: float
    """Probability, 0 to 1."""


def center_view(image_HWC: Pixels, *, resize: int, size: int) -> Pixels:
    """Return the (S, S, C) centre of an image: Resize(resize), then CenterCrop(size), in one step.

    Args:
        image_HWC: any size.
        resize: what the shorter side is brought to, pixels.
        size: S, at most `resize`.
    """
    height, width = image_HWC.shape[:2]
    side = max(1, round(min(height, width) * size / resize))
    left, top = round((width - side) / 2), round((height - side) / 2)  # as torchvision rounds
    return resized(image_HWC, (left, top, left + side, top + side), size)


def random_views(
    images: Sequence[Pixels], draws_BR: NDArray[np.float64], crop: RandomCrop, *, size: int
) -> Pixels:
    """Return random crops (B, S, S, C) of images, flipped or not, by numbers drawn before.

    Args:
        images: B arrays (H, W, C), each of any size.
        draws_BR: of `augmentation_draws`, a row an image.
        crop: the distribution.
        size: S.
    """
    views_BSSC = np.empty((len(images), size, size, images[0].shape[2]), np.uint8)
    for view_SSC, image_HWC, draws_R in zip(views_BSSC, images, draws_BR, strict=True):
        height, width = image_HWC.shape[:2]
        box = random_box(height, width, draws_R, crop)
        cropped_SSC = resized(image_HWC, box, size)
        view_SSC[:] = cropped_SSC[:, ::-1] if draws_R[22] < crop.flip else cropped_SSC
    return views_BSSC


def augmentation_draws(seed: int, start: int, count: int) -> NDArray[np.float64]:
    """Return the random numbers, 0 to 1, of positions `start` to `start + count` of an epoch.

    A position's numbers depend on nothing but (seed, position): the generator counts, so it can
    begin anywhere. Batches of another size, or an epoch resumed half way, draw the same.

    Returns:
        (count, 24) float64.
    """
    stream = np.random.Philox(key=seed)
    stream.advance(start * DRAWS // 4)  # one step of Philox yields four numbers
    return np.random.Generator(stream).random((count, DRAWS))


def random_box(height: int, width: int, draws_R: NDArray[np.float64], crop: RandomCrop) -> Box:
    """Return the first of ten random boxes that fits, else the largest central one.

    The distribution is that of torchvision's RandomResizedCrop: area uniform, logarithm of the
    aspect ratio uniform, place uniform.
    """
    low, high = crop.area
    log_low, log_high = np.log(crop.ratio[0]), np.log(crop.ratio[1])
    area_A = height * width * (low + (high - low) * draws_R[:ATTEMPTS])
    ratio_A = np.exp(log_low + (log_high - log_low) * draws_R[ATTEMPTS : 2 * ATTEMPTS])
    width_A, height_A = np.rint(np.sqrt(area_A * ratio_A)), np.rint(np.sqrt(area_A / ratio_A))
    fits_A = (width_A > 0) & (width_A <= width) & (height_A > 0) & (height_A <= height)
    if not fits_A.any():
        return _central_box(height, width, crop.ratio)
    first = int(fits_A.argmax())
    box_width, box_height = int(width_A[first]), int(height_A[first])
    left = int(draws_R[20] * (width - box_width + 1))
    top = int(draws_R[21] * (height - box_height + 1))
    return left, top, left + box_width, top + box_height


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    box_width = min(width, max(1, round(height * ratio[1])))
    box_height = min(height, max(1, round(width / ratio[0])))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def resized(image_HWC: Pixels, box: Box, size: int) -> Pixels:
    """Return the part of an image in `box`, resized to (S, S, C), bilinear with antialiasing."""
    left, top, right, bottom = box
    part_HWC = image_HWC[top:bottom, left:right]
    if part_HWC.shape[:2] == (size, size):
        return part_HWC
    if part_HWC.shape[2] == 3:
        return np.asarray(_resize_picture(part_HWC, size))
    channels = [
        np.asarray(_resize_picture(channel_HW, size)) for channel_HW in part_HWC.transpose(2, 0, 1)
    ]
    return np.stack(channels, axis=-1)


def _resize_picture(pixels: Pixels, size: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return picture.resize((size, size), Image.Resampling.BILINEAR)
