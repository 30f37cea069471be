"""Split a network into convolutions, for images of any size, and linear layers, for windows.

Suffixes: N images, K windows, C channels, H rows, W columns, S side of a window, D values.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.layers import window_of
from deepcluster_core.models.network import Network
from deepcluster_core.models.registry import OWN_NETWORKS


@dataclass(frozen=True)
class Place:
    """The positions of a map's pixels in the image, along either axis."""

    stride: int
    """Distance of neighbours in image pixels: 16 for AlexNet and VGG-16, 32 if pooled."""
    first: float
    """Centre of the first one's receptive field; the centre of the first image pixel is 0."""


class Dense:
    """The two halves of a network, which share its weights.

    The networks of this package consist of convolutions, the last with a max-pool, and two linear
    layers, called fc6 and fc7 here as in AlexNet and VGG-16. fc6 reads a square map, called a
    window here.
    """

    window: int
    """Side of the window that fc6 reads, in pixels of the pooled map: AlexNet 6, VGG-16 7."""

    def __init__(self, network: Network) -> None:
        """Find the two halves.

        Raises:
            ConfigError: the network has no `halves`; torchvision's networks have none.
        """
        halves = network.halves
        if halves is None:
            raise ConfigError(
                "this evaluation splits a network into convolutions and the two linear layers "
                "behind them, and it is unknown where to split this network.\n"
                f"  Fix: evaluate a run with one of our own networks: {', '.join(OWN_NETWORKS)}."
            )
        layers = dict(network.backbone.named_children())
        maps = layers[halves.maps]
        assert isinstance(maps, nn.Sequential)
        self._network = network
        self._maps = maps
        names = list(layers)
        first_behind = names.index(halves.flatten) + 1
        self._behind = [layers[name] for name in names[first_behind:]]
        convolutions = [layer for layer in maps.modules() if isinstance(layer, nn.Conv2d)]
        self.channels = convolutions[-1].out_channels
        """Number of channels of the maps."""
        # fc6 has an input for each channel of each pixel of its window.
        linear_layers = [layer for layer in self._behind if isinstance(layer, nn.Linear)]
        pixels_in_window = linear_layers[0].in_features // self.channels
        self.window = math.isqrt(pixels_in_window)

    def place(self, *, pooled: bool) -> Place:
        """Return the positions of a map's pixels, computed from kernels, strides and paddings.

        If layers are not fully padded, as several of AlexNet's, the first position lies inside the
        image.

        Args:
            pooled: whether the map goes through the last max-pool.
        """
        layers: list[nn.Conv2d | nn.MaxPool2d] = []
        for module in self._maps.modules():
            if isinstance(module, nn.Conv2d | nn.MaxPool2d):
                layers.append(module)
        if not pooled:
            layers.pop()  # the last one is the max-pool
        first = 0.0
        stride = 1
        for layer in layers:
            kernel, step, padding = window_of(layer)
            # The first window's centre, moved outwards by the padding, in pixels of this layer.
            to_centre = (kernel - 1) / 2
            first += stride * (to_centre - padding)
            stride *= step
        return Place(stride, first)

    def map(self, images_NCHW: Tensor, *, pooled: bool) -> Tensor:
        """Return map_NCHW, the output of the last convolution after its ReLU.

        Args:
            images_NCHW: uint8, or float from 0 to 1; any size that is large enough for a map.
            pooled: whether the map goes through the last max-pool.
        """
        map_NCHW = self._network.inputs(images_NCHW)
        *blocks, last = self._maps
        for block in blocks:
            map_NCHW = block(map_NCHW)
        # The last block layer by layer, to leave out its max-pool.
        for name, layer in last.named_children():
            if pooled or name != "pool":
                map_NCHW = layer(map_NCHW)
        return map_NCHW

    def hidden(self, windows_KCSS: Tensor) -> Tensor:
        """Return hidden_KD of windows, the input of the head in training, after the last ReLU."""
        hidden_KD = windows_KCSS.flatten(start_dim=1)
        for layer in self._behind:
            hidden_KD = layer(hidden_KD)
        return self._network.last_relu(hidden_KD)
