"""Layers for a batch that is split over ranks.

Batch normalisation and dropout treat an image according to the rest of its batch. These layers give
each rank, for its own images, what the layers of one rank give for the whole batch, apart from
rounding. Suffixes: B images of this rank, T images of all ranks, C channels.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core.ranks import Ranks

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Sum = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Share:
    """The part of a batch that one rank has."""

    rows: range
    """Its rows in the whole batch; can be empty."""
    total: int
    """Number of rows in the whole batch."""
    num_views: int = 1
    """Number of views of each row, which follow view after view: row v * total + b of the whole
    batch is view v of row b."""

    def of_views(self, num_views: int) -> "Share":
        """Return the same share of a batch with several views of each row."""
        return replace(self, num_views=num_views)

    def own(self, values: Tensor) -> Tensor:
        """Return the rows of this rank among values for all views of the whole batch."""
        by_view = values.unflatten(0, (self.num_views, self.total))
        return by_view[:, self.rows.start : self.rows.stop].flatten(0, 1)


def spread_over_ranks(
    network: nn.Module, ranks: Ranks, share_of_batch: Callable[[], Share]
) -> None:
    """Replace the layers that depend on the whole batch, in place.

    Parameters and buffers stay the same tensors with the same names.

    Args:
        network: on any device.
        ranks: the ranks that hold the other parts of each batch.
        share_of_batch: returns the share of the batch that passes through the network.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, BatchNorm):
            network.set_submodule(name, BatchNormOverRanks.replacing(layer, ranks))
        elif isinstance(layer, nn.Dropout) and layer.p > 0:
            network.set_submodule(name, MaskOverRanks(layer, share_of_batch, of_images=False))
        elif _is_stochastic_depth(layer):
            network.set_submodule(name, MaskOverRanks(layer, share_of_batch, of_images=True))


class BatchNormOverRanks(nn.BatchNorm2d):
    """Batch normalisation with the statistics of all ranks' images.

    torch's `SyncBatchNorm` does the same, but on GPUs only. In eval mode, it is `nn.BatchNorm2d`.
    """

    _ranks: Ranks

    @classmethod
    def replacing(cls, layer: BatchNorm, ranks: Ranks) -> Self:
        """Return a layer with the parameters, buffers and settings of another one.

        Args:
            layer: has weights and running statistics, as all layers by default. Modules inside it,
                such as the activations of timm's layers, are applied to its output.
            ranks: the ranks that hold the other parts of each batch.
        """
        assert layer.affine
        assert layer.track_running_stats
        new = cls(layer.num_features, layer.eps, layer.momentum)
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(new, name, parameter)
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(new, name, buffer)
        for name, child in layer.named_children():
            new.add_module(name, child)
        new.train(layer.training)
        new._ranks = ranks
        return new

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised maps (B, C, ...); all ranks must take part, also without images."""
        if not self.training:
            return self._finish(super().forward(input))
        normalised, mean_C, variance_C, count = cast(
            "tuple[Tensor, Tensor, Tensor, Tensor]",
            _Normalise.apply(input, self.weight, self.bias, self.eps, self._ranks.sum_in_step),
        )
        self._update_running(mean_C, variance_C, count)
        return self._finish(normalised)

    def _finish(self, normalised: Tensor) -> Tensor:
        """Apply the modules that the replaced layer had inside it, in their order."""
        for child in self.children():
            normalised = child(normalised)
        return normalised

    @torch.no_grad()
    def _update_running(self, mean_C: Tensor, variance_C: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # torch then takes the mean over all batches
            momentum = 1 / float(self.num_batches_tracked)
        # As in torch, the running variance is the unbiased one.
        unbiased_C = variance_C * (count / (count - 1).clamp(min=1))
        for running_C, new_C in ((self.running_mean, mean_C), (self.running_var, unbiased_C)):
            running_C.mul_(1 - momentum).add_(new_C.to(running_C.dtype), alpha=momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept maps of any number of dimensions, because it replaces all batch normalisations."""


class _Normalise(torch.autograd.Function):
    """Normalise with statistics over ranks: one sum in the forward and one in the backward pass.

    The passes over the maps are torch's own kernels, which read bfloat16 and compute in float32.
    Only sums of C values are float64.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's context
        maps: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        eps: float,
        sum_over_ranks: Sum,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the normalised maps, mean and variance by channel (float64) and the count."""
        total = sum_over_ranks(_moments(maps))
        num_channels = len(weight_C)
        count = total[-1]
        mean_C = total[:num_channels] / count
        # float64 has 29 bits more than the values, which the difference of the squares can lose.
        variance_C = (total[num_channels:-1] / count - mean_C.square()).clamp(min=0)
        narrow_mean_C, narrow_variance_C = mean_C.float(), variance_C.float()
        normalised = functional.batch_norm(
            maps, narrow_mean_C, narrow_variance_C, weight_C, bias_C, training=False, eps=eps
        )
        ctx.save_for_backward(maps, weight_C, narrow_mean_C, narrow_variance_C, count)
        ctx.eps = eps
        ctx.sum_over_ranks = sum_over_ranks
        ctx.mark_non_differentiable(mean_C, variance_C, count)
        return normalised, mean_C, variance_C, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of the maps, and of weight and bias from this rank's images."""
        maps, weight_C, mean_C, variance_C, count = ctx.saved_tensors
        gradient = gradients[0]
        of_weight_C, of_bias_C = _gradients_of_affine(
            gradient, maps, weight_C, mean_C, variance_C, ctx.eps
        )
        # Mean and variance depend on all images, so that the gradient of each depends on the sums.
        sums_2C = torch.cat((of_weight_C, of_bias_C)).double()
        means_2C = ctx.sum_over_ranks(sums_2C) / count
        mean_of_weight_C, mean_of_bias_C = means_2C.float().chunk(2)
        scale_C = weight_C * torch.rsqrt(variance_C + ctx.eps)
        # scale * (gradient - mean_of_bias - normalised maps * mean_of_weight)
        of_maps = functional.batch_norm(
            maps,
            mean_C,
            variance_C,
            -scale_C * mean_of_weight_C,
            -scale_C * mean_of_bias_C,
            training=False,
            eps=ctx.eps,
        )
        if maps.dtype == torch.float32:
            of_maps.addcmul_(gradient, scale_C.view(1, -1, *[1] * (maps.ndim - 2)))
        else:  # a scale of bfloat16 would be wrong in the third digit
            zeros_C = torch.zeros_like(mean_C)
            of_maps += functional.batch_norm(
                gradient, zeros_C, variance_C, weight_C, zeros_C, training=False, eps=ctx.eps
            )
        return of_maps, of_weight_C, of_bias_C, None, None


def _moments(maps: Tensor) -> Tensor:
    """Return the sums of values and squares by channel, and the count, (2 C + 1) in float64."""
    num_channels = maps.shape[1]
    moments = torch.zeros(2 * num_channels + 1, dtype=torch.float64, device=maps.device)
    count = maps.numel() // num_channels
    if count == 0:  # torch's kernel does not accept it
        return moments
    zeros_C = torch.zeros(num_channels, device=maps.device)
    # A momentum of 0 leaves the running statistics that it is given; their type is the precision.
    mean_C, variance_C = torch.batch_norm_update_stats(maps, zeros_C, zeros_C + 1, 0.0)
    mean_C, variance_C = mean_C.double(), variance_C.double()
    moments[:num_channels] = count * mean_C
    moments[num_channels:-1] = count * (variance_C + mean_C.square())
    moments[-1] = count
    return moments


def _gradients_of_affine(
    gradient: Tensor, maps: Tensor, weight_C: Tensor, mean_C: Tensor, variance_C: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias from this rank's images."""
    if maps.numel() == 0:  # torch's kernel divides by zero
        return torch.zeros_like(weight_C), torch.zeros_like(weight_C)
    _, of_weight_C, of_bias_C = torch.ops.aten.native_batch_norm_backward(
        gradient,
        maps,
        weight_C,
        mean_C,
        variance_C,
        mean_C,
        torch.rsqrt(variance_C + eps),
        False,
        eps,
        [False, True, True],
    )
    return of_weight_C, of_bias_C


class MaskOverRanks(nn.Module):
    """Dropout, or another layer that multiplies by a random mask, with the mask of the whole batch.

    All ranks draw this mask from equal generators, and each applies its own rows of it.
    """

    def __init__(
        self, layer: nn.Module, share_of_batch: Callable[[], Share], *, of_images: bool
    ) -> None:
        """Wrap a layer.

        Args:
            layer: maps ones to the mask.
            share_of_batch: returns the share of the batch that passes through the layer.
            of_images: whether an image has one random number instead of one for each value.
        """
        super().__init__()
        self.layer = layer
        self.training = layer.training
        self._share_of_batch = share_of_batch
        self._of_images = of_images

    def forward(self, values: Tensor) -> Tensor:
        """Return the masked values (B, ...)."""
        if not self.layer.training:
            return values
        share = self._share_of_batch()
        sides = [1] * (values.ndim - 1) if self._of_images else values.shape[1:]
        # In the memory order of the values, in which one rank would draw.
        is_channels_last = values.ndim == 4 and not values.is_contiguous()
        ones = torch.empty(
            (share.num_views * share.total, *sides),
            dtype=values.dtype,
            device=values.device,
            memory_format=torch.channels_last if is_channels_last else torch.contiguous_format,
        ).fill_(1)
        return values * share.own(self.layer(ones))


def _is_stochastic_depth(layer: nn.Module) -> bool:
    # Only torchvision's networks have it, and importing torchvision is slow.
    operations = sys.modules.get("torchvision.ops")
    return operations is not None and isinstance(layer, operations.StochasticDepth)
