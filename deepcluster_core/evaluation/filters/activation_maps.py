"""Activations of the filters of a layer: the spatial mean of each filter's map.

Suffixes: B images, C channels, H rows, W columns, F filters of a layer, S side of an image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.network import Network


def layers_to_read(network: Network, asked: Sequence[str] | None) -> list[str]:
    """Return the layers asked for; if None, all layers that have a short name.

    Raises:
        ConfigError: `asked` is None or empty, and the network has no short names.
    """
    layers = list(network.taps if asked is None else asked)
    if not layers:
        known = [name for name, _ in network.backbone.named_children()]
        raise ConfigError(
            f"layers: auto, but the layers of this network have no short names.\n"
            f"  Fix: name some, for example backbone.{known[-1]}; the network has "
            f"{', '.join(known)}."
        )
    return layers


def num_filters(network: Network, layer: str, *, size: int) -> int:
    """Return the number of filters F of a layer.

    Args:
        network: a network in eval mode.
        layer: see `Network.layer_output`.
        size: side S of the images.

    Raises:
        ConfigError: the network has no such layer, or its output is not a map.
    """
    mean_C11 = network.mean_C11
    with torch.no_grad():
        blank_1CSS = torch.zeros(1, len(mean_C11), size, size, dtype=mean_C11.dtype)
        output = network.layer_output(blank_1CSS.to(mean_C11.device), layer)
    if output.ndim != 4:
        raise ConfigError(
            f"layer {layer!r} outputs numbers of shape {tuple(output.shape[1:])} for an image, "
            f"not the maps of filters.\n"
            f"  Fix: name a convolution, or a block of them."
        )
    return output.shape[1]


def chosen_filters(asked: int | Sequence[int], *, of: int, layer: str) -> list[int]:
    """Return the numbers of the chosen filters, increasing.

    Args:
        asked: the number of filters, which are then spread evenly; or a list of their numbers.
        of: number of filters F of the layer.
        layer: name of the layer, for the error message.

    Raises:
        ConfigError: the layer has no such filter.
    """
    if isinstance(asked, int):
        spread = np.linspace(0, of - 1, min(asked, of))
        return spread.round().astype(int).tolist()
    if max(asked) >= of:
        raise ConfigError(
            f"filters: {max(asked)} asked for, but layer {layer} has filters 0 to {of - 1}.\n"
            f"  Fix: leave this filter out, or name the layers that have it: layers=[…]."
        )
    return sorted(set(asked))


def depth(network: Network, layer: str) -> float:
    """Return the relative depth of a layer: 0 at the first convolution, 1 at the last.

    It is computed from the number of convolutions up to the end of the layer, in the order in which
    the network names its modules.
    """
    module_name = network.module_name(layer)
    num_convolutions = 0
    num_up_to_end = 0
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            num_convolutions += 1
        # The layer ends with the last of its submodules.
        if name == module_name or name.startswith(f"{module_name}."):
            num_up_to_end = num_convolutions
    # A layer before the first convolution counts as 0, and a single convolution, too.
    num_before = max(0, num_up_to_end - 1)
    return num_before / max(1, num_convolutions - 1)


def mean_activation(map_BFHW: Tensor) -> Tensor:
    """Return mean_BF of the map after its ReLU, in float32 or better."""
    # Means in bfloat16 would often be equal, which would make ties.
    dtype = torch.promote_types(map_BFHW.dtype, torch.float32)
    return map_BFHW.relu().mean(dim=(2, 3), dtype=dtype)
