"""R-MAC: a short descriptor of an image of any size, from the greatest activations in its regions.

Suffixes: H rows, W columns, C channels of an image; R regions, D filters, Q values of a descriptor.

Source: Tolias, Sicre and Jégou 2016 (arXiv:1511.05879), section 4.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.config import Precision
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.evaluation.retrieval.regions import grid_regions
from deepcluster_core.features import to_device, to_images
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast
from deepcluster_core.shortage import lacks_memory

LARGEST_TRIED_PX = 256
BLOCK_ROWS = 4096  # small blocks would make `fit_pca` slow


class TooSmallError(ValueError):
    """An image is so small that the layer's map of it is empty; the message is the reason."""


class RegionReader:
    """Reads the regions of images from a layer of a network."""

    def __init__(
        self,
        network: Network,
        *,
        layer: str,
        levels: int,
        overlap: float,
        device: str,
        precision: Precision,
    ) -> None:
        """Prepare the network: move it to the device, in eval mode, and fold batch normalisation.

        Args:
            network: modified in place, so do not reuse it.
            layer: a layer whose output is a map, see `Network.layer_output`. auto: the last one
                with a short name, which is the last convolution before its max-pooling.
            levels: see `grid_regions`.
            overlap: see `grid_regions`.
            device: a torch device.
            precision: number format of the forward pass; regions are float32.

        Raises:
            ConfigError: the network has no such layer, or its output is not a map.
        """
        to_device(network, device)
        network.eval()
        self.layer = last_map(network) if layer == "auto" else layer
        fold_batch_norm(network)
        self._network = network
        self._levels = levels
        self._overlap = overlap
        self._device = device
        self._precision: Precision = precision
        self._smallest = self._smallest_side()

    def read(self, image_HWC: NDArray[np.uint8]) -> Tensor:
        """Return the greatest activation of each filter in each region, rows of length 1.

        Returns:
            regions_RD: float32, on the device.

        Raises:
            TooSmallError: the image has no pixels, or too few for the layer.
        """
        height, width = image_HWC.shape[:2]
        if min(height, width) < self._smallest:
            raise TooSmallError(
                f"{width} x {height} pixels, of which {self.layer} has nothing left; it needs "
                f"{self._smallest} or more a side"
            )
        # The image may be a part of a larger one, which is not contiguous in memory.
        images_1HWC = np.ascontiguousarray(image_HWC)[None]
        map_1DHW = self._map(to_images(images_1HWC, self._device))
        map_DHW = map_1DHW[0]
        height, width = map_DHW.shape[1:]
        strongest: list[Tensor] = []
        for top, left, side in grid_regions(
            height,
            width,
            levels=self._levels,
            overlap=self._overlap,
        ):
            rows = slice(top, top + side)
            columns = slice(left, left + side)
            region_DSS = map_DHW[:, rows, columns]
            strongest.append(region_DSS.amax(dim=(1, 2)))
        return normalize(torch.stack(strongest).float())

    @torch.no_grad()
    def _map(self, images_1CHW: Tensor) -> Tensor:
        with autocast(self._device, self._precision):
            return self._network.layer_output(images_1CHW, self.layer)

    def _smallest_side(self) -> int:
        """Return the smallest side of square images for which the layer's map is not empty.

        Maps never shrink as images grow, so bisection finds it, in nine passes over blank images.

        Raises:
            ConfigError: the layer has no map even for the largest image that is tried.
        """
        if not self._has_map(LARGEST_TRIED_PX):
            raise ConfigError(
                f"layer {self.layer!r} does not output a map of filters for images of "
                f"{LARGEST_TRIED_PX} px.\n"
                f"  Fix: choose a convolution, or a block of them: --set layer=…"
            )
        too_small = 0
        enough = LARGEST_TRIED_PX
        while enough - too_small > 1:
            middle = (too_small + enough) // 2
            if self._has_map(middle):
                enough = middle
            else:
                too_small = middle
        return enough

    def _has_map(self, side: int) -> bool:
        mean_C11 = self._network.mean_C11
        blank_1CSS = torch.zeros(1, len(mean_C11), side, side, device=mean_C11.device)
        try:
            output = self._map(blank_1CSS)
        except (RuntimeError, AssertionError) as error:
            # torch raises these if a kernel or a window does not fit into the image. It raises them
            # for lack of memory, too, which has nothing to do with the layer.
            if lacks_memory(error):
                raise
            return False
        return output.ndim == 4 and output.numel() > 0


def last_map(network: Network) -> str:
    """Return the last layer that has a short name.

    Raises:
        ConfigError: no layer of the network has a short name.
    """
    if not network.taps:
        known = [name for name, _ in network.backbone.named_children()]
        raise ConfigError(
            f"layer: auto, but the layers of this network have no short names.\n"
            f"  Fix: name the last layer that outputs a map: --set layer=backbone.NAME; the "
            f"network has {', '.join(known)}."
        )
    return list(network.taps)[-1]


def fit_whitening(regions: Iterable[Tensor], *, dims: int, floor: float) -> Pca:
    """Learn the projection from regions to descriptors.

    Memory holds `dims` rows and a few D x D matrices, regardless of the number of images.

    Args:
        regions: the regions_RD of each image.
        dims: number of values Q of a descriptor. There are fewer if D, the number of regions or
            their rank is smaller.
        floor: least eigenvalue, as a fraction of the largest. Smaller eigenvalues are raised to it,
            so that whitening does not amplify directions in which hardly anything varies.

    Raises:
        FeatureError: there are fewer than two regions, or they are not finite or all equal.
    """
    # PCA cannot have more dimensions than regions, so read until the number is known to suffice.
    remaining = iter(regions)
    held: list[Tensor] = []
    num_rows = 0
    for image_RD in remaining:
        held.append(image_RD)
        num_rows += len(image_RD)
        if num_rows > dims:
            break
    if num_rows < 2:
        raise FeatureError(
            f"{num_rows} regions are too few to learn the whitening from.\n"
            f"  Fix: learn it from more images that can be read."
        )
    device = held[0].device
    num_filters = held[0].shape[1]
    dim = min(dims, num_filters, num_rows - 1)
    all_regions = chain(held, remaining)
    pca = fit_pca(_blocks(all_regions), dim=dim, clip=True, device=device)
    # The eigenvalues are in decreasing order.
    least = floor * pca.eigenvalues_Q[0]
    floored_Q = pca.eigenvalues_Q.clamp(min=least)
    return replace(pca, eigenvalues_Q=floored_Q).to(device)


def _blocks(regions: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the regions of several images at a time."""
    block: list[Tensor] = []
    for image_RD in regions:
        block.append(image_RD)
        if sum(map(len, block)) >= BLOCK_ROWS:
            yield torch.cat(block)
            block.clear()
    if block:
        yield torch.cat(block)


def descriptor(regions_RD: Tensor, whitening: Pca) -> Tensor:
    """Return descriptor_Q, of length 1: the sum of an image's whitened regions."""
    whitened_RQ = whitening.whiten(regions_RD)
    return normalize(whitened_RQ.sum(dim=0), dim=0)
