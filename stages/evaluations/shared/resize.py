"""The protocol key `resize`: how large an image is when the network's crops are cut out of it."""

from typing import Literal

from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.crops import usual_resize

SMALL_PX = 64
"""Images up to this side are usually cut close to what they show."""


def resize_for(image_size: int, resize: int | Literal["auto"], *, only_centre: bool) -> int:
    """Return the length to which the shorter side of an image is resized, pixels.

    auto is 256/224 of the crops, as in the paper. The margin around the crop is what the crops of
    linear and mlp move in, so these have it at every size. An evaluation that looks at nothing but
    the central crop would only lose the margin, so it takes small images whole.

    Args:
        image_size: of the network, and so of the crops.
        resize: as the protocol has it.
        only_centre: whether all crops are central.

    Raises:
        ConfigError: the crops would be larger than the resized image.
    """
    if resize == "auto":
        takes_all = only_centre and image_size <= SMALL_PX
        return image_size if takes_all else usual_resize(image_size)
    if resize < image_size:
        raise ConfigError(
            f"resize: {resize} px is smaller than the network's image_size, {image_size}.\n"
            f"  Fix: --set resize={image_size}, or more, or auto"
        )
    return resize
