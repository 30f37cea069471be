"""A network in two halves: a map of images of any size, and what is made of windows of it.

Suffixes: N images, K windows, C channels, H rows, W columns, S side of a window, D values.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.network import Network
from deepcluster_core.models.registry import NETWORKS

OWN_NETWORKS = [name for name in NETWORKS if ":" not in name]


@dataclass(frozen=True)
class Place:
    """Where the pixels of a map look, along either axis."""

    stride: int
    """Pixels of the image from one to the next: 16 for AlexNet and VGG-16, 32 if pooled."""
    first: float
    """Centre of what the first one sees, in pixels of the image; its first pixel's centre is 0."""


class Dense:
    """Views of a network's own layers; it neither copies nor owns a weight of them.

    The networks of this package are convolutions, the last with a max-pool, and then two linear
    layers, of which the first reads a square map: they are called fc6 and fc7 after AlexNet's and
    VGG-16's. That square is a window here.
    """

    window: int
    """S: side of what fc6 reads, in pixels of the pooled map: 6 for AlexNet, 7 for VGG-16."""

    def __init__(self, network: Network) -> None:
        """Find the two halves.

        Raises:
            ConfigError: the network has no `halves`, as torchvision's have none.
        """
        halves = network.halves
        if halves is None:
            raise ConfigError(
                "this evaluation takes a network apart into convolutions and the two linear "
                "layers behind them, and this network does not say where.\n"
                f"  Fix: evaluate a run with one of our own networks: {', '.join(OWN_NETWORKS)}."
            )
        layers = dict(network.backbone.named_children())
        maps = layers[halves.maps]
        assert isinstance(maps, nn.Sequential)
        self._network, self._maps = network, maps
        self._behind = list(layers.values())[list(layers).index(halves.flatten) + 1 :]
        linear = [layer for layer in self._behind if isinstance(layer, nn.Linear)]
        convolutions = [layer for layer in maps.modules() if isinstance(layer, nn.Conv2d)]
        self.channels = convolutions[-1].out_channels
        """C of the maps."""
        self.window = math.isqrt(linear[0].in_features // self.channels)

    def place(self, *, pooled: bool) -> Place:
        """Return where the pixels of a map look, from kernels, strides and paddings.

        Where a layer is not padded fully, as several of AlexNet are not, the first one looks at a
        place inside of the image.

        Args:
            pooled: see `map`.
        """
        layers = [m for m in self._maps.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)]
        first, stride = 0.0, 1
        for layer in layers if pooled else layers[:-1]:  # the last one is the max-pool
            kernel, step, padding = (
                value if isinstance(value, int) else int(value[0])
                for value in (layer.kernel_size, layer.stride, layer.padding)
            )
            first += stride * ((kernel - 1) / 2 - padding)
            stride *= step
        return Place(stride, first)

    def map(self, images_NCHW: Tensor, *, pooled: bool) -> Tensor:
        """Return map_NCHW: the last convolution's, after its ReLU.

        Args:
            images_NCHW: uint8, or float 0 to 1; of any size that leaves something of them.
            pooled: whether it goes through the last max-pool.
        """
        map_NCHW = self._network.inputs(images_NCHW)
        *blocks, last = self._maps
        for block in blocks:
            map_NCHW = block(map_NCHW)
        for name, layer in last.named_children():
            if pooled or name != "pool":
                map_NCHW = layer(map_NCHW)
        return map_NCHW

    def hidden(self, windows_KCSS: Tensor) -> Tensor:
        """Return hidden_KD of windows: what the head reads in training, after the last ReLU."""
        hidden_KD = windows_KCSS.flatten(start_dim=1)
        for layer in self._behind:
            hidden_KD = layer(hidden_KD)
        return self._network.last_relu(hidden_KD)
