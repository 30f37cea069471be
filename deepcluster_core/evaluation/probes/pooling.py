"""The values that classifiers read, computed from the maps of a frozen network.

Suffixes: B images, C channels, H rows, W columns, T tokens, D values, S side of a view, pixels.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from deepcluster_core.config import Precision
from deepcluster_core.features import ViewBatch, to_device, to_images
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.models.network import Network, Window
from deepcluster_core.precision import autocast, is_narrow

NUMBERS = 9_000
"""Approximate number of values per layer, so that no layer wins by the size of its map."""


def pooled(output: Tensor, window: Window | None) -> Tensor:
    """Return values_BD of a layer's output.

    - Maps (B, C, H, W) of the size that the window expects are pooled by the window.
    - Other maps are averaged over a grid of n x n equal parts (`adaptive_avg_pool2d`), where n is
      the rounded root of 9,000 / C, but at most the side of the map. For AlexNet's widths n is 10,
      6, 5, 5 and 6, which equals the outputs of its windows.
    - Tokens (B, T, C) are averaged, and outputs (B, D) are returned as they are.

    The values of a map are ordered by row, column and then channel, as in channels-last memory. In
    the demo, this order takes a third off the time that a network needs.

    Args:
        output: output of a layer.
        window: pooling window of this layer, if it has one.
    """
    if output.ndim == 4:
        map_BCHW = _pooled_map(output, window)
        return map_BCHW.permute(0, 2, 3, 1).flatten(start_dim=1)
    if output.ndim == 3:
        return output.mean(dim=1)
    # A copy, because the layer behind a linear one may overwrite its output in place.
    return output.clone()


def _pooled_map(map_BCHW: Tensor, window: Window | None) -> Tensor:
    channels, height, width = map_BCHW.shape[1:]
    if window is not None and height == width == window.map_side:
        return avg_pool2d(map_BCHW, window.kernel, window.stride, window.padding)

    num_parts = max(1, round(math.sqrt(NUMBERS / channels)))
    if num_parts >= max(height, width):
        # A copy, because the layer behind this one may overwrite its output in place.
        return map_BCHW.clone()
    rows = min(num_parts, height)
    columns = min(num_parts, width)
    return adaptive_avg_pool2d(map_BCHW, (rows, columns))


class Frozen:
    """A frozen network, as a function from views to the values of its layers.

    Layers with short names are read after batch normalisation and ReLU and before max-pooling, as
    in section 4.3 and in the released code.
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[str],
        *,
        size: int,
        device: str,
        precision: Precision,
    ) -> None:
        """Prepare the network, and run it once on a blank view to learn the sizes of its layers.

        Args:
            network: modified in place, so do not reuse it. Batch normalisation keeps its
                statistics.
            layers: at least one layer, see `Network.layer_output`.
            size: side S of the views.
            device: a torch device.
            precision: number format of the forward pass.

        Raises:
            ConfigError: the network has no such layer.
        """
        # Only some layers of some networks have a window of their own.
        self._readers: dict[str, Callable[[Tensor], Tensor]] = {}
        for layer in layers:
            window = network.windows.get(layer)
            self._readers[layer] = partial(pooled, window=window)
        self.device = device
        self.precision: Precision = precision
        self.dtype = torch.bfloat16 if is_narrow(device, precision) else torch.float32
        to_device(network, device)
        fold_batch_norm(network.eval())
        self._network = network

        num_channels = len(network.mean_C11)
        blank_1SSC = np.zeros((1, size, size, num_channels), np.uint8)
        self.numbers: dict[str, int] = {}
        """Number of values D of each layer."""
        for layer, values_1D in self(blank_1SSC).items():
            self.numbers[layer] = values_1D.shape[1]

    def __call__(self, views: ViewBatch) -> dict[str, Tensor]:
        """Return values_BD of each layer, on the device, in the number format of the pass."""
        with torch.no_grad(), autocast(self.device, self.precision):
            images_BCSS = to_images(views, self.device)
            values = self._network.read_layers(images_BCSS, self._readers)
        return {layer: values_BD.to(self.dtype) for layer, values_BD in values.items()}
