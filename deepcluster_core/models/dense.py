"""A network in two halves: a map of images of any size, and what is made of windows of it.

Suffixes: N images, K windows, C channels, H rows, W columns, S side of a window, D values.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.network import Network


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
        """Find the halves.

        Raises:
            ConfigError: the network is not made of them, as torchvision's are not.
        """
        layers = dict(network.backbone.named_children())
        linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
        maps = layers.get("maps")
        if not isinstance(maps, nn.Sequential) or len(linear) != 2:
            raise ConfigError(
                "this network is no row of convolutions with two linear layers behind it, which "
                "is what this evaluation takes apart.\n"
                "  Fix: evaluate a run with network.name alexnet, vgg16 or smallnet."
            )
        self._network, self._maps = network, maps
        after_flat = list(layers).index("flatten") + 1
        self._behind = list(layers.values())[after_flat:]
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
