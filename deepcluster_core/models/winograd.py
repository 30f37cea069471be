"""Winograd's convolutions on a CPU: a kernel of 3x3 or 5x5 with fewer multiplications.

A tile of the map, A x A pixels, and the kernel, K x K, are transformed, multiplied value by value,
summed over channels, and transformed back to a tile of the result, R x R with R = A - K + 1. That
takes A² multiplications for each tile in place of R²K²: 16 in place of 36 for 3x3, 64 in place of
400 for 5x5. For the gradient of the kernel, tiles of the map are multiplied with those of the
result's gradient. (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308.) The transforms are matrix
products as well.

oneDNN has no such convolution for float32 on x86, and its gradient of the kernel is slow: on two
cores of an AMD EPYC with AVX2, at 55 to 85 % of the pace of a matrix product, where its other two
passes reach 110 to 150 %. For 13x13 pixels and 256 to 384 channels, the gradient takes half of
oneDNN's time in this way, and all passes of AlexNet's 5x5 kernel take 40 to 55 %. Processors with
AVX-512, or of Arm, use it as well where they compute in float32; there it was not measured.

Tiles are small, because rounding grows with them. Largest difference from float64, in standard
deviations of the result: 3x3 2e-6 (oneDNN 1e-5), 5x5 4e-5 (oneDNN 1e-5 to 3e-5).

Suffixes: N images, H rows, W columns, I input channels, O output channels, T tiles, P = A² values
of a transformed tile, Q = K² of the kernel, R = R² of a tile of the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from deepcluster_core.models.small_maps import Pair

TILES: dict[int, tuple[int, tuple[float, ...]]] = {
    3: (2, (0, 1, -1)),
    5: (4, (0, 1, -1, 2, -2, 1 / 2, -1 / 2)),
}
"""By side of the kernel: side of a tile of the result, and the points, beside infinity, at which
the polynomials of the algorithm are evaluated. Small ones, which keep rounding small."""
LEAST_CHANNEL_PRODUCT = 64 * 128
"""Product of input and output channels below which transforms cost what multiplications save.

Gradient of 3x3 kernels, in oneDNN's time, one and two threads: 64 x 64 channels 0.7 to 1.2, 64 x
128 0.6 to 0.9, 128 x 128 and more 0.4 to 0.8."""
LEAST_CHANNEL_PRODUCT_OF_MAPS = 256 * 384
"""The same for the other two passes of 3x3 kernels, in which oneDNN is good: from here on they take
0.7 to 0.9 of its time; with 128 x 256 channels 0.8 to 1.1, with 64 x 128 1.1 to 1.5."""
MOST_MULTIPLICATIONS = 0.6
"""Share of the multiplications of a plain convolution that may be left: tiles can stick out."""
VALUES_AT_ONCE = 2**22
"""Transformed values of maps and results that are held at once: 16 MB, which stay in a cache.

Where a single image has more, as in VGG-16 above 28x28 pixels, torch convolves."""


@dataclass(frozen=True)
class Plan:
    """How a convolution of maps of one size is computed."""

    kernel: int
    """Pixels a side."""
    padding: int
    height: int
    """Pixels of the result."""
    width: int
    """Pixels of the result."""
    all_passes: bool
    """Whether results and gradients of maps are computed in this way, too."""

    @property
    def side(self) -> int:
        """Pixels a side of a tile of the result."""
        return TILES[self.kernel][0]

    @property
    def tile(self) -> int:
        """Pixels a side of a tile of the map."""
        return self.side + self.kernel - 1

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.side)

    @property
    def columns(self) -> int:
        """Columns of tiles."""
        return -(-self.width // self.side)

    @property
    def transformed_values(self) -> int:
        """Number of transformed values of a channel of an image."""
        return self.rows * self.columns * self.tile**2

    @property
    def multiplications(self) -> float:
        """Multiplications of two channels, as a share of those of a plain convolution."""
        return self.transformed_values / (self.height * self.width * self.kernel**2)

    def blocks(self, num_images: int, num_channels: int) -> Iterator[slice]:
        """Yield images whose transformed values stay in a cache.

        Args:
            num_images: number of all images.
            num_channels: channels of the maps and of the results together.
        """
        step = max(1, VALUES_AT_ONCE // (self.transformed_values * num_channels))
        yield from (slice(start, start + step) for start in range(0, num_images, step))


@cache
def plan_of(
    map_sides: Pair, weight_shape: tuple[int, ...], stride: Pair, padding: Pair
) -> Plan | None:
    """Return how maps of H x W pixels are convolved with a weight (O, I, K, K); None for torch."""
    num_out, num_in, kernel, width = weight_shape
    if kernel not in TILES or width != kernel or stride != (1, 1):
        return None
    if padding not in [(pixels, pixels) for pixels in range(kernel)]:
        return None
    plan = Plan(
        kernel=kernel,
        padding=padding[0],
        height=map_sides[0] + 2 * padding[0] - kernel + 1,
        width=map_sides[1] + 2 * padding[0] - kernel + 1,
        all_passes=kernel > 3 or num_in * num_out >= LEAST_CHANNEL_PRODUCT_OF_MAPS,
    )
    if num_in * num_out < LEAST_CHANNEL_PRODUCT or min(plan.height, plan.width) < plan.side:
        return None
    if plan.transformed_values * (num_in + num_out) > VALUES_AT_ONCE:
        return None
    return plan if plan.multiplications <= MOST_MULTIPLICATIONS else None


def convolved(maps: Tensor, weight_OIKL: Tensor, bias_O: Tensor | None, plan: Plan) -> Tensor:
    """Return the convolved maps (N, O, H', W') of maps (N, I, H, W)."""
    return cast("Tensor", _Convolution.apply(maps, weight_OIKL, bias_O, plan))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's context
        maps: Tensor,
        weight_OIKL: Tensor,
        bias_O: Tensor | None,
        plan: Plan,
    ) -> Tensor:
        ctx.save_for_backward(maps, weight_OIKL)
        ctx.plan = plan
        if plan.all_passes:
            return _convolved(maps, weight_OIKL, bias_O, plan)
        return nn.functional.conv2d(maps, weight_OIKL, bias_O, padding=plan.padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        maps, weight_OIKL = ctx.saved_tensors
        plan: Plan = ctx.plan
        (gradient,) = gradients
        needs_maps, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            _gradient_of_maps(gradient, maps, weight_OIKL, plan) if needs_maps else None,
            _gradient_of_kernel(gradient, maps, plan) if needs_weight else None,
            gradient.sum((0, 2, 3)) if needs_bias else None,
            None,
        )


def _convolved(maps: Tensor, weight_OIKL: Tensor, bias_O: Tensor | None, plan: Plan) -> Tensor:
    transforms = _transforms(plan.kernel, maps.dtype)
    maps_NHWI = maps.permute(0, 2, 3, 1)
    num_images, _, _, num_in = maps_NHWI.shape
    num_out = len(weight_OIKL)
    weight_QIO = weight_OIKL.permute(2, 3, 1, 0).flatten(0, 1)
    weight_PIO = _transformed(weight_QIO, transforms.of_kernel_PQ)
    side, rows, columns = plan.side, plan.rows, plan.columns
    output = maps.new_empty(num_images, rows * side, columns * side, num_out)
    for block in plan.blocks(num_images, num_in + num_out):
        maps_PTI = _transformed_maps(maps_NHWI[block], transforms, plan)
        tiles_RTO = _transformed(maps_PTI @ weight_PIO, transforms.of_result_PR.T)
        tiles = tiles_RTO.view(side, side, -1, rows, columns, num_out).permute(2, 3, 0, 4, 1, 5)
        written = output[block].view(-1, rows, side, columns, side, num_out)
        if bias_O is None:
            written.copy_(tiles)
        else:
            torch.add(tiles, bias_O, out=written)
    within = output[:, : plan.height, : plan.width].contiguous()
    # Detached, because autograd lets nobody change a view of a function's own tensors in place, as
    # a ReLU behind it may.
    return within.permute(0, 3, 1, 2).detach()


def _gradient_of_maps(gradient: Tensor, maps: Tensor, weight_OIKL: Tensor, plan: Plan) -> Tensor:
    """Return the gradient's convolution with the kernels turned by half a turn."""
    if plan.all_passes:
        turned_IOKL = weight_OIKL.transpose(0, 1).flip(2, 3)
        turned = Plan(
            kernel=plan.kernel,
            padding=plan.kernel - 1 - plan.padding,
            height=maps.shape[2],
            width=maps.shape[3],
            all_passes=True,
        )
        return _convolved(gradient, turned_IOKL, None, turned)
    padding = [plan.padding, plan.padding]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient,
        maps,
        weight_OIKL,
        None,  # sizes of the bias
        [1, 1],  # stride
        padding,
        [1, 1],  # dilation
        False,  # transposed
        [0, 0],  # output padding
        1,  # groups
        [True, False, False],  # of the maps alone
    )
    return found[0]


def _gradient_of_kernel(gradient: Tensor, maps: Tensor, plan: Plan) -> Tensor:
    """Return the gradient of the weight (O, I, K, K): sums over images and pixels."""
    transforms = _transforms(plan.kernel, maps.dtype)
    maps_NHWI, gradient_NHWO = maps.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    num_in, num_out = maps.shape[1], gradient.shape[1]
    of_weight_PIO = maps.new_zeros(len(transforms.of_map_PP), num_in, num_out)
    for block in plan.blocks(len(maps), num_in + num_out):
        maps_PTI = _transformed_maps(maps_NHWI[block], transforms, plan)
        gradient_PTO = _transformed_results(gradient_NHWO[block], transforms, plan)
        of_weight_PIO.baddbmm_(maps_PTI.transpose(1, 2), gradient_PTO)
    of_weight_QIO = _transformed(of_weight_PIO, transforms.of_kernel_PQ.T)
    kernel = plan.kernel
    return of_weight_QIO.view(kernel, kernel, num_in, num_out).permute(3, 2, 0, 1)


def _transformed_maps(maps_NHWI: Tensor, transforms: "_Transforms", plan: Plan) -> Tensor:
    """Return the transformed tiles (P, T, I) of maps, which overlap by K - 1 pixels."""
    side, tile = plan.side, plan.tile
    _, height, width, num_in = maps_NHWI.shape
    before = plan.padding
    below = plan.rows * side + plan.kernel - 1 - before - height
    behind = plan.columns * side + plan.kernel - 1 - before - width
    padded = nn.functional.pad(maps_NHWI, (0, 0, before, behind, before, below)).contiguous()
    of_image, of_row, of_column, _ = padded.stride()
    tiles = padded.as_strided(
        (tile, tile, len(padded), plan.rows, plan.columns, num_in),
        (of_row, of_column, of_image, side * of_row, side * of_column, 1),
    )
    return _transformed(tiles.reshape(tile * tile, -1, num_in), transforms.of_map_PP)


def _transformed_results(results_NHWO: Tensor, transforms: "_Transforms", plan: Plan) -> Tensor:
    """Return the transformed tiles (P, T, O) of results, or of their gradient."""
    side, rows, columns = plan.side, plan.rows, plan.columns
    num_out = results_NHWO.shape[-1]
    padding = (0, 0, 0, columns * side - plan.width, 0, rows * side - plan.height)
    padded = nn.functional.pad(results_NHWO, padding)
    tiles = padded.reshape(-1, rows, side, columns, side, num_out).permute(2, 4, 0, 1, 3, 5)
    return _transformed(tiles.reshape(side * side, -1, num_out), transforms.of_result_PR)


def _transformed(values: Tensor, transform: Tensor) -> Tensor:
    """Return the product of a transform (B, A) with values (A, C, D)."""
    return (transform @ values.flatten(1)).view(len(transform), *values.shape[1:])


@dataclass(frozen=True)
class _Transforms:
    """The transforms of both axes at once."""

    of_map_PP: Tensor
    of_kernel_PQ: Tensor
    of_result_PR: Tensor


@cache
def _transforms(kernel: int, dtype: torch.dtype) -> _Transforms:
    """Return the transforms, which Toom and Cook's way to multiply polynomials gives.

    With V(n), the powers 0 to n - 1 of the points, the R results of a kernel k along a row d of
    A = R + K - 1 pixels are V(R)ᵀ [(V(K) k) ∘ (V(A)⁻ᵀ d)].
    """
    # Made once for all callers: also for those that train, and not on their current device.
    with torch.inference_mode(False), torch.device("cpu"):
        side, points = TILES[kernel]
        evaluate_map = _powers(points, side + kernel - 1)
        evaluate_kernel, evaluate_result = _powers(points, kernel), _powers(points, side)
        interpolate = torch.linalg.inv(evaluate_map).T
        # Rows of about the same size for maps and kernels lose the least in rounding.
        sizes = 2 ** interpolate.abs().amax(dim=1, keepdim=True).log2().round()
        axes = (interpolate / sizes, evaluate_kernel * sizes, evaluate_result)
        both = [torch.kron(axis, axis).to(dtype) for axis in axes]
        return _Transforms(*both)


def _powers(points: tuple[float, ...], number: int) -> Tensor:
    """Return the powers 0 to `number` - 1 of the points, and of infinity, where the last counts."""
    of_points = torch.tensor(points, dtype=torch.float64)[:, None] ** torch.arange(number)
    of_infinity = torch.zeros(1, number, dtype=torch.float64)
    of_infinity[0, -1] = 1
    return torch.cat([of_points, of_infinity])
