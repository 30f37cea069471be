"""How strongly an image excites the filters of a layer: the spatial mean of each filter's map.

Suffixes: B images, C channels, H rows, W columns, F filters of a layer, S side of an image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.network import Network


def layers_to_read(network: Network, asked: Sequence[str] | None) -> list[str]:
    """Return the layers asked for; None: all that have a short name.

    Raises:
        ConfigError: none asked for, and this network has no short names.
    """
    layers = list(network.taps) if asked is None else list(asked)
    if not layers:
        known = [name for name, _ in network.backbone.named_children()]
        raise ConfigError(
            f"layers: auto, but the layers of this network have no short names.\n"
            f"  Fix: name some, for example backbone.{known[-1]}; it has {', '.join(known)}."
        )
    return layers


def num_filters(network: Network, layer: str, *, size: int) -> int:
    """Return F of a layer.

    Args:
        network: in eval mode.
        layer: see `Network.layer_output`.
        size: S of the images.

    Raises:
        ConfigError: there is no such layer, or its output is no map.
    """
    column = network.mean_C11
    with torch.no_grad():
        blank_1CSS = torch.zeros(1, len(column), size, size, dtype=column.dtype)
        output = network.layer_output(blank_1CSS.to(column.device), layer)
    if output.ndim != 4:
        raise ConfigError(
            f"layer {layer!r} puts out numbers of shape {tuple(output.shape[1:])} for an image, "
            f"not the maps of filters.\n"
            f"  Fix: name a convolution, or a block of them."
        )
    return output.shape[1]


def chosen_filters(asked: int | Sequence[int], *, of: int, layer: str) -> list[int]:
    """Return numbers of filters, increasing: those asked for, or so many spread evenly.

    Args:
        asked: how many, or which.
        of: F, how many there are.
        layer: for the error.

    Raises:
        ConfigError: the layer has no such filter.
    """
    if isinstance(asked, int):
        return np.linspace(0, of - 1, min(asked, of)).round().astype(int).tolist()
    if max(asked) >= of:
        raise ConfigError(
            f"filters: {max(asked)} asked for, but layer {layer} has filters 0 to {of - 1}.\n"
            f"  Fix: leave it out, or name the layers that have it: layers=[…]."
        )
    return sorted(set(asked))


def depth(network: Network, layer: str) -> float:
    """Return where a layer lies: 0 at the first convolution of the network, 1 at the last.

    By the number of convolutions up to its end, in the order in which the network names them.
    """
    own = network.module_name(layer)
    names = [name for name, _ in network.named_modules()]
    convolutions = [isinstance(module, nn.Conv2d) for module in network.modules()]
    end = max(n for n, name in enumerate(names) if name == own or name.startswith(f"{own}."))
    before = sum(convolutions[: end + 1]) - 1
    return max(0, before) / max(1, sum(convolutions) - 1)


def mean_activation(map_BFHW: Tensor) -> Tensor:
    """Return mean_BF of the map after its ReLU, in float32 or better."""
    wide = torch.promote_types(map_BFHW.dtype, torch.float32)  # bfloat16 would make ties
    return map_BFHW.relu().mean(dim=(2, 3), dtype=wide)
