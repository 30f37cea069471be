"""R-MAC: one short vector for an image of any size, of the greatest activations in its regions.

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
BLOCK_ROWS = 4096  # `fit_pca` is slow in small blocks


class TooSmallError(ValueError):
    """Nothing is left of an image when it reaches the layer; the message is a reason."""


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
        """Take the network, which is used up: in eval mode, on the device, changed to be faster.

        Args:
            network: any whose layer puts out maps.
            layer: see `Network.layer_output`; auto: the last of the short names, which is the last
                convolution without the max-pool after it.
            levels: see `grid_regions`.
            overlap: likewise.
            device: a torch device.
            precision: of the forward pass; regions are float32.

        Raises:
            ConfigError: there is no such layer, or its output is no map.
        """
        to_device(network, device)
        network.eval()
        self.layer = last_map(network) if layer == "auto" else layer
        fold_batch_norm(network)
        self._network, self._levels, self._overlap = network, levels, overlap
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
        map_DHW = self._map(to_images(np.ascontiguousarray(image_HWC)[None], self._device))[0]
        height, width = map_DHW.shape[1:]
        squares = grid_regions(height, width, levels=self._levels, overlap=self._overlap)
        strongest = [
            map_DHW[:, top : top + side, left : left + side].amax(dim=(1, 2))
            for top, left, side in squares
        ]
        return normalize(torch.stack(strongest).float())

    @torch.no_grad()
    def _map(self, images_1CHW: Tensor) -> Tensor:
        with autocast(self._device, self._precision):
            return self._network.layer_output(images_1CHW, self.layer)

    def _smallest_side(self) -> int:
        """Return the least side of square images of which the layer has something left, by trying.

        Nine passes over blank images: halving finds it, as larger images never have less left.
        """
        if not self._has_map(LARGEST_TRIED_PX):
            raise ConfigError(
                f"layer {self.layer!r} puts out no map of filters for images of "
                f"{LARGEST_TRIED_PX} px.\n"
                f"  Fix: --set layer=…, a convolution, or a block of them."
            )
        too_small, enough = 0, LARGEST_TRIED_PX
        while enough - too_small > 1:
            middle = (too_small + enough) // 2
            too_small, enough = (too_small, middle) if self._has_map(middle) else (middle, enough)
        return enough

    def _has_map(self, side: int) -> bool:
        column = self._network.mean_C11
        blank_1CSS = torch.zeros(1, len(column), side, side, device=column.device)
        try:
            output = self._map(blank_1CSS)
        except (RuntimeError, AssertionError) as error:
            # torch's, of kernels, pools or sizes that do not fit; or for want of memory, which
            # tells nothing about the layer.
            if lacks_memory(error):
                raise
            return False
        return output.ndim == 4 and output.numel() > 0


def last_map(network: Network) -> str:
    """Return the last layer with a short name.

    Raises:
        ConfigError: this network has none.
    """
    if not network.taps:
        known = [name for name, _ in network.backbone.named_children()]
        raise ConfigError(
            f"layer: auto, but the layers of this network have no short names.\n"
            f"  Fix: --set layer=backbone.NAME, the last that puts out a map; it has "
            f"{', '.join(known)}."
        )
    return list(network.taps)[-1]


def fit_whitening(regions: Iterable[Tensor], *, dims: int, floor: float) -> Pca:
    """Learn the projection of regions to descriptors.

    Memory is `dims` rows and a few D x D matrices, however many images there are.

    Args:
        regions: each regions_RD of an image.
        dims: Q; fewer where D, the number of regions, or the rank of all of them is less.
        floor: eigenvalues below this share of the largest count as that much, so that whitening
            does not blow up directions in which next to nothing varies.

    Raises:
        FeatureError: regions are fewer than two, not finite, or all equal.
    """
    rows = iter(regions)
    held: list[Tensor] = []
    num_rows = 0
    while num_rows <= dims and (image_RD := next(rows, None)) is not None:
        held.append(image_RD)
        num_rows += len(image_RD)
    if num_rows < 2:
        raise FeatureError(
            f"{num_rows} regions are too few to learn the whitening from.\n"
            f"  Fix: learn it from more images that can be read."
        )
    fitting = min(dims, held[0].shape[1], num_rows - 1)
    pca = fit_pca(_blocks(chain(held, rows)), dim=fitting, clip=True, device=held[0].device)
    floored_Q = pca.eigenvalues_Q.clamp(min=floor * pca.eigenvalues_Q[0])
    return replace(pca, eigenvalues_Q=floored_Q).to(held[0].device)


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
    """Return descriptor_Q: an image's regions whitened, each of length 1, and so their sum."""
    return normalize(whitening.whiten(regions_RD).sum(dim=0), dim=0)
