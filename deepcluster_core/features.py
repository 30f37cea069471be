"""The forward pass that turns images into features.

Suffixes: B batch, D dims, S side in pixels, C channels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core.config import FeatureDtype, Precision
from deepcluster_core.context import Context
from deepcluster_core.device_feed.fetching import fetched
from deepcluster_core.models.cpu_convolutions import use_fast_convolutions
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast, is_narrow
from deepcluster_core.ranks import Batch, in_turns

ViewBatch = NDArray[np.uint8] | Tensor
"""A batch of views: (B, S, S, C) in main memory, or (B, C, S, S) from 0 to 1 on the device."""


def extract_features(
    network: Network,
    batches: Iterable[ViewBatch],
    *,
    layer: str | None,
    device: str,
    precision: Precision,
    dtype: FeatureDtype = "float32",
    project: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[NDArray[np.floating]]:
    """Yield the features (B, D) of batches of views, in order.

    Args:
        network: modified in place, so do not reuse it. It is moved to the device and put into eval
            mode (no dropout; batch normalisation with its running statistics), and its weights are
            changed to an equivalent, faster form.
        batches: the views.
        layer: a named layer, averaged over space; None for the feature of the paper.
        device: a torch device.
        precision: number format of the forward pass.
        dtype: number format of the result. Values beyond that of float16 become infinite.
        project: applied to the features in float32, on the device, before they leave it.
    """
    to_device(network, device)
    network.eval()
    # Both change the weights for good, which spares work in every batch.
    read = None if layer is None else network.get_submodule(network.module_name(layer))
    fold_batch_norm(network, read=read)
    if is_narrow(device, precision):
        _narrow_weights(network)

    def compute(views: ViewBatch) -> Tensor:
        with torch.inference_mode():
            with autocast(device, precision):
                images_BCSS = to_images(views, device)
                if layer is None:
                    feature_BD = network.feature(images_BCSS)
                else:
                    feature_BD = network.layer_feature(images_BCSS, layer)
            feature_BD = feature_BD.float()
            if project is not None:
                feature_BD = project(feature_BD)
            return feature_BD.to(getattr(torch, dtype))

    yield from fetched(map(compute, batches))


def features_on_first(
    network: Network,
    batches: Sequence[Batch],
    load: Callable[[Sequence[Batch]], Iterator[ViewBatch]],
    *,
    layer: str | None,
    context: Context,
    precision: Precision,
) -> Iterator[NDArray[np.float32]]:
    """Yield the features (B, D) of all batches, in order, on the first rank; nothing on the others.

    Each rank computes some of the batches, see `in_turns`. This is for features that are used once,
    as they come; those that are kept are written by all ranks, see `FeatureShare`.

    Args:
        network: modified in place and not reusable afterwards; see `extract_features`.
        batches: the batches of all ranks, described in any way.
        load: returns the views of some of these batches, in order.
        layer: a named layer, averaged over space; None for the feature of the paper.
        context: device and ranks.
        precision: number format of the forward pass.
    """

    def compute(own: Sequence[Batch]) -> Iterator[NDArray[np.float32]]:
        return extract_features(
            network, load(own), layer=layer, device=context.device, precision=precision
        )

    return in_turns(batches, compute, context.ranks, "features")


def feature_dim(network: Network, layer: str | None, *, size: int) -> int:
    """Return D, the number of values of a feature, after a pass of one image at the most.

    Args:
        network: on the CPU; it is put into eval mode.
        layer: a named layer, averaged over space; None for the feature of the paper.
        size: side of the images in pixels.

    Raises:
        ConfigError: the layer is unknown.
    """
    if layer is None:
        return network.feature_dim
    network.eval()
    num_channels = len(network.mean_C11)
    black_1CSS = torch.zeros(1, num_channels, size, size, dtype=torch.uint8)
    with torch.inference_mode():
        return network.layer_feature(black_1CSS, layer).shape[1]


def to_device(module: nn.Module, device: str) -> None:
    """Move a module to a device, and give its convolutions what makes them fast there.

    Their weights get channels-last order; on a CPU, see also `models.cpu_convolutions`.
    """
    module.to(device)
    module.to(memory_format=torch.channels_last)
    if torch.device(device).type == "cpu":
        use_fast_convolutions(module)


def to_images(views: ViewBatch, device: str) -> Tensor:
    """Return a batch on the device as (B, C, S, S): uint8 in channels-last memory, or as it is."""
    if isinstance(views, Tensor):
        return views
    copied_BSSC = torch.from_numpy(views).to(device, non_blocking=True)
    return copied_BSSC.permute(0, 3, 1, 2)


def _narrow_weights(network: Network) -> None:
    """Round the weights to bfloat16 once; autocast would round them again for every batch."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)
