"""A network in two halves: a map of images of any size, and what is made of windows of it.

Suffixes: N images, K windows, C channels, H rows, W columns, S side of a window, D values.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.network import Network


class Dense:
    """Views of a network's own layers; it neither copies nor owns a weight of them.

    The networks of this package are convolutions, the last with a max-pool, and then two linear
    layers, of which the first reads a square map: they are called fc6 and fc7 after AlexNet's and
    VGG-16's. That square is a window here.
    """

    window: int
    """S: side of what fc6 reads, in pixels of the pooled map: 6 for AlexNet, 7 for VGG-16."""
    stride: int
    """Pixels of an image for a pixel of the map that is not pooled: 16 for both."""
    pooled_stride: int
    """The same for the pooled map: 32 for both."""

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
        self._network, self._maps, self._fc6 = network, maps, linear[0]
        after_flat = list(layers).index("flatten") + 1
        self._behind = list(layers.values())[after_flat:]
        convolutions = [layer for layer in maps.modules() if isinstance(layer, nn.Conv2d)]
        self.channels = convolutions[-1].out_channels
        """C of the maps."""
        self.window = math.isqrt(linear[0].in_features // self.channels)
        strides = [
            _stride(layer)
            for layer in maps.modules()
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d)
        ]
        self.pooled_stride = math.prod(strides)
        self.stride = self.pooled_stride // strides[-1]  # that of the last max-pool

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

    def hidden_map(self, map_NCHW: Tensor, *, padding: int) -> Tensor:
        """Return hidden_NDHW: the same for every window of a pooled map, in one pass.

        The linear layers become convolutions, as in Shelhamer et al.: at each place this is
        `hidden` of the window there. Dropout before fc6 drops pixels that several windows share.

        Args:
            map_NCHW: pooled.
            padding: pixels of 0 around it.
        """
        hidden_NDHW = map_NCHW
        for layer in self._behind:
            if layer is self._fc6:
                weight_DCSS = self._fc6.weight.unflatten(1, (self.channels, self.window, -1))
                hidden_NDHW = functional.conv2d(
                    hidden_NDHW, weight_DCSS, self._fc6.bias, padding=padding
                )
            elif isinstance(layer, nn.Linear):
                weight_DD11 = layer.weight[:, :, None, None]
                hidden_NDHW = functional.conv2d(hidden_NDHW, weight_DD11, layer.bias)
            else:
                hidden_NDHW = layer(hidden_NDHW)
        return self._network.last_relu(hidden_NDHW)


def _stride(layer: nn.Conv2d | nn.MaxPool2d) -> int:
    return layer.stride if isinstance(layer.stride, int) else int(layer.stride[0])
