"""Measure the running statistics of batch normalisation before a network is trained.

Suffixes: B images of a batch, C channels, S pixels of a side.
"""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core.features import to_device, to_images
from deepcluster_core.models.network import Network
from deepcluster_core.precision import exact_float32

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@exact_float32()
@torch.no_grad()
def measured_statistics(
    network: Network, batches: Iterable[NDArray[np.uint8]], *, device: str
) -> dict[str, Tensor]:
    """Return the running means and variances of all batch normalisations, by their name.

    They are averages over the batches, each with equal weight. Each batch is normalised by its own
    statistics, as in training, but nothing is dropped.

    Args:
        network: not changed.
        batches: views (B, S, S, C) as uint8 pixels, in random order and at least 2 in a batch.
        device: a torch device.
    """
    copied = copy.deepcopy(network)
    to_device(copied, device)
    copied.eval()  # of all layers, batch normalisation alone works as in training
    layers: dict[str, BatchNorm] = {}
    for name, layer in copied.named_modules():
        if isinstance(layer, BatchNorm) and layer.track_running_stats:
            layers[name] = layer
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None  # the average over all batches
    if not layers:
        return {}
    for views_BSSC in batches:
        copied(to_images(views_BSSC, device))
    statistics: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for buffer, values in layer.named_buffers(recurse=False):
            statistics[f"{name}.{buffer}"] = values.cpu()
    return statistics
