"""Networks by the name that they have in a recipe."""

from typing import Any

from pydantic import ValidationError

from deepcluster_core.config_problems import described, invalid
from deepcluster_core.models import build
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network


def build_network(name: str, *, channels: int = 3, seed: int = 0, **settings: Any) -> Network:  # noqa: ANN401  keys of a recipe
    """Build and initialise a network on the CPU, in training mode.

    The network takes images (B, C, S, S) of uint8 pixels, which it scales and normalises itself.
    Its `feature` is the (B, D) float32 that a run clusters; `layer_feature` is the feature of a
    named layer.

    Args:
        name: `alexnet`, `vgg16`, `smallnet`, `resnet18-small`, `torchvision:NAME`, for example
            `torchvision:resnet50`, or `timm:NAME`.
        channels: C, the number of channels of the images.
        seed: seed of the weights, 0 to 2**63 - 1. The global random generators are not changed.
        settings: the other keys of a recipe's `network` section, for example `image_size=32` or
            `sobel=False`.

    Raises:
        ConfigError: the network or a setting is unknown, images of this size do not fit it, or its
            `weights` cannot be read or belong to a different network.
    """
    try:
        config = NetworkConfig(name=name, **settings)
    except ValidationError as error:
        raise invalid("build_network", described(error, NetworkConfig)) from error
    return build.build_network(config, channels=channels, seed=seed)
