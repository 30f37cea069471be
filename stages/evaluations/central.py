"""The central views that evaluations look at."""

from typing import Literal

from deepcluster_core.errors import ConfigError

SMALL_PX = 64
"""Pictures up to this side are taken whole: they are cut close to what they show."""


def resize_for(image_size: int, resize: int | Literal["auto"]) -> int:
    """Return to what the shorter side is brought before the crop of `image_size`, pixels.

    Args:
        image_size: of the network.
        resize: as a protocol has it. auto: 256 / 224 of the image size, as in the paper; up to
            `SMALL_PX` the image size, so that nothing is cut away.

    Raises:
        ConfigError: the crop would be larger than the resized image.
    """
    if resize == "auto":
        return image_size if image_size <= SMALL_PX else round(image_size * 256 / 224)
    if resize < image_size:
        raise ConfigError(
            f"resize: {resize} px is smaller than the network's image_size, {image_size}.\n"
            f"  Fix: --set resize={image_size}, or more"
        )
    return resize
