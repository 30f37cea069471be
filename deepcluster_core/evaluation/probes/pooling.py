"""From the maps of a frozen network to the values that classifiers read.

Suffixes: B images, C channels, H rows, W columns, T tokens, D values, S side of a view, pixels.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from deepcluster_core.config import Precision
from deepcluster_core.features import to_device, to_images
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.models.network import Network, Window
from deepcluster_core.precision import autocast, is_narrow

NUMBERS = 9_000
"""About what is left of every map of a layer, so that no layer wins by the size of its map."""


def pooled(output: Tensor, window: Window | None) -> Tensor:
    """Return values_BD of a layer's output.

    Maps (B, C, H, W) of the window's size are pooled by it. All others are averaged over a grid
    of n x n equal parts (`adaptive_avg_pool2d`), n the whole number for which C n² is nearest to
    9,000 by its root, but no finer than the map: that gives 10, 6, 5, 5, 6 for AlexNet's widths,
    as its windows do. Tokens (B, T, C) are averaged, and (B, D) stays as it is.

    The values of a map lie row by row, column by column and then by channel, as they do in
    channels-last memory: in the demo that takes a third off the time that a network needs.

    Args:
        output: of a layer.
        window: of this layer if it has one.
    """
    if output.ndim == 4:
        return _pooled_map(output, window).permute(0, 2, 3, 1).flatten(start_dim=1)
    # Its own: the layer behind a linear one may write over its output in place.
    return output.mean(dim=1) if output.ndim == 3 else output.clone()


def _pooled_map(map_BCHW: Tensor, window: Window | None) -> Tensor:
    channels, height, width = map_BCHW.shape[1:]
    if window is not None and height == width == window.map_side:
        return avg_pool2d(map_BCHW, window.kernel, window.stride, window.padding)
    side = max(1, round(math.sqrt(NUMBERS / channels)))
    if side >= max(height, width):
        return map_BCHW.clone()
    return adaptive_avg_pool2d(map_BCHW, (min(side, height), min(side, width)))


class Frozen:
    """A network that is not trained any more, as a function from views to values of its layers.

    Layers by their short names are read after batch normalisation and ReLU and before the
    max-pool, as section 4.3 and the released code have it.
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
        """Prepare the network, and try it.

        Args:
            network: is used up, see `extract_features`; batch normalisation keeps its statistics.
            layers: see `Network.layer_output`; at least one.
            size: S of the views.
            device: a torch device.
            precision: of the forward pass.

        Raises:
            ConfigError: there is no such layer.
        """
        self._readers = {
            layer: partial(pooled, window=network.windows.get(layer)) for layer in layers
        }
        self.device = device
        self.precision: Precision = precision
        self.dtype = torch.bfloat16 if is_narrow(device, precision) else torch.float32
        to_device(network, device)
        fold_batch_norm(network.eval())
        self._network = network
        blank_1SSC = np.zeros((1, size, size, len(network.mean_C11)), np.uint8)
        self.numbers = {layer: v.shape[1] for layer, v in self(blank_1SSC).items()}
        """D of each layer."""

    def __call__(self, views_BSSC: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return values_BD of each layer, on the device, in the number format of the pass."""
        with torch.no_grad(), autocast(self.device, self.precision):
            images_BCSS = to_images(views_BSSC, self.device)
            values = self._network.read_layers(images_BCSS, self._readers)
        return {layer: values_BD.to(self.dtype) for layer, values_BD in values.items()}
