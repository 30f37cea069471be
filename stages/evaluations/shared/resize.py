"""The protocol key `resize`: the size of an image when the network's crops are cut out of it."""

from typing import Literal

from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.crops import usual_resize

SMALL_PX = 64
"""Up to this side, images are usually cut so closely that a central crop would lose content."""


def resize_for(image_size: int, resize: int | Literal["auto"], *, only_centre: bool) -> int:
    """Return the length to which the shorter side of an image is resized, pixels.

    auto is 256/224 of the crop's side, as in the paper. The crops of linear and mlp move within the
    margin, so these evaluations keep it at every size. An evaluation that reads only the central
    crop would merely lose the margin, so it takes small images whole.

    Args:
        image_size: side of the images that the network reads, and so of the crops.
        resize: value of the protocol's key.
        only_centre: whether all crops are central.

    Raises:
        ConfigError: the crops would be larger than the resized image.
    """
    if resize == "auto":
        takes_all = only_centre and image_size <= SMALL_PX
        if takes_all:
            return image_size
        return usual_resize(image_size)
    if resize < image_size:
        raise ConfigError(
            f"resize: {resize} px is smaller than the network's image_size, {image_size}.\n"
            f"  Fix: --set resize={image_size}, or more, or auto"
        )
    return resize
