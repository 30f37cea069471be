"""Learn an image that excites one filter more than the others of its layer (figure 4).

Section 4.2 follows Yosinski et al. 2015, "Understanding neural networks through deep
visualization", with a cross-entropy between the target filter and the others; the numbers are
those of the authors' released code.

Suffixes: T target filters, each with its own image, C channels, S side of the image, F filters.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deepcluster_core import seeding
from deepcluster_core.evaluation.filters.activation_maps import mean_activation
from deepcluster_core.models.network import Network
from deepcluster_core.precision import exact_float32

AT_ONCE = 32
"""Images that are learnt in one pass. The result of an image does not depend on the others."""

WHITE = 255


@dataclass(frozen=True)
class Ascent:
    """Settings of the gradient ascent. Lengths are L2 norms of one image on a scale of 0 to 255."""

    step: float
    """Length of every step."""
    iterations: int
    l2: float
    """Penalty on the sum of squares of the image as the network normalises it."""
    blur_sigma: float
    """Standard deviation of the Gaussian, pixels; 0 turns blurring off."""
    blur_every: int
    """Steps between two blurs."""


@dataclass(frozen=True)
class Start:
    """The noise from which images start: normal, on a scale of 0 to 255, but not clipped to it."""

    mean: float
    std: float
    seed: int
    """Seed of the run."""

    def image(
        self,
        layer: str,
        target: int,
        *,
        channels: int,
        size: int,
    ) -> Tensor:
        """Return start_CSS, which depends on the seed, the layer and the target only.

        It is thus identical in every epoch of a run, whatever other filters are shown.
        """
        generator = seeding.numpy_generator(self.seed, "maximal", "start", layer, target)
        shape = (channels, size, size)
        noise_CSS = generator.normal(self.mean, self.std, shape)
        return torch.from_numpy(noise_CSS).float()


@dataclass(frozen=True)
class Excitement:
    """The responses of target filters to their images."""

    activation_T: Tensor
    """Spatial mean of the target's map after its ReLU."""
    log_probability_T: Tensor
    """Log-probability of the target in the softmax over the means of all filters; nats."""


@dataclass(frozen=True)
class Learnt:
    """A learnt image, and the responses of its target filter before and after."""

    image_SSC: NDArray[np.uint8]
    """The image, clipped to 0 to 255."""
    start_activation: float
    activation: float
    start_log_probability: float
    log_probability: float


def iterations_for(step: float, *, channels: int, size: int) -> int:
    """Return the number of steps that move a value of an image as far as in figure 4.

    Figure 4 takes 30,000 steps of 3 for conv1 or 3,000 steps of 30 for conv5, for colour images of
    224 px.

    Args:
        step: length of a step, see `Ascent`.
        channels: channels of the image.
        size: side S of the image.
    """
    for_figure_4 = 30_000 * 3 / step
    # The step is a length, so with more values each of them moves less.
    for_size = for_figure_4 * size / 224
    iterations = for_size * math.sqrt(channels / 3)
    return max(1, round(iterations))


def learn_images(
    network: Network,
    layer: str,
    targets: Sequence[int],
    *,
    ascent: Ascent,
    start: Start,
    size: int,
    stepped: Callable[[], None],
) -> Iterator[Learnt]:
    """Learn an image for each target, `AT_ONCE` at a time, and yield it.

    Args:
        network: a network in eval mode. Gradients of its weights are turned off for good.
        layer: see `Network.layer_output`.
        targets: numbers of filters.
        ascent: settings of the gradient ascent.
        start: noise from which the images start.
        size: side S of the images.
        stepped: called after each step of a pass.
    """
    network.requires_grad_(False)
    channels = len(network.mean_C11)
    device = network.mean_C11.device
    for first in range(0, len(targets), AT_ONCE):
        group = targets[first : first + AT_ONCE]
        target_T = torch.tensor(group, device=device)
        starts = [start.image(layer, target, channels=channels, size=size) for target in group]
        start_TCSS = torch.stack(starts).to(device)
        image_TCSS = climb(network, layer, target_T, start_TCSS, ascent, stepped=stepped)
        before = excitement(network, layer, start_TCSS, target_T)
        after = excitement(network, layer, image_TCSS, target_T)

        # The responses are those of the learnt values; only the picture is clipped and rounded.
        pixels_TCSS = image_TCSS.clamp(0, WHITE).round().byte()
        pixels_TSSC = pixels_TCSS.permute(0, 2, 3, 1).cpu().numpy()
        for place, image_SSC in enumerate(pixels_TSSC):
            yield Learnt(
                image_SSC,
                start_activation=float(before.activation_T[place]),
                activation=float(after.activation_T[place]),
                start_log_probability=float(before.log_probability_T[place]),
                log_probability=float(after.log_probability_T[place]),
            )


def passes(num_targets: int) -> int:
    """Return the number of passes that `learn_images` makes."""
    return math.ceil(num_targets / AT_ONCE)


@exact_float32()
def climb(
    network: Network,
    layer: str,
    target_T: Tensor,
    start_TCSS: Tensor,
    ascent: Ascent,
    *,
    stepped: Callable[[], None],
) -> Tensor:
    """Return image_TCSS after `ascent.iterations` steps up the gradient of the objective.

    Values are not clipped to 0 to 255: neither the paper nor the released code's numbers call for
    it.

    Args:
        network: a network in eval mode.
        layer: see `Network.layer_output`.
        target_T: int64, numbers of filters, on the network's device.
        start_TCSS: float, images on a scale of 0 to 255, on the network's device.
        ascent: settings of the gradient ascent.
        stepped: called after each step of all images.
    """
    image_TCSS = start_TCSS
    for iteration in range(1, ascent.iterations + 1):
        # Detach, so that gradients do not reach back into earlier steps.
        image_TCSS = image_TCSS.detach().requires_grad_()
        value_T = objective(network, layer, image_TCSS, target_T, l2=ascent.l2)
        (gradient_TCSS,) = torch.autograd.grad(value_T.sum(), image_TCSS)
        image_TCSS = image_TCSS.detach() + step_along(gradient_TCSS, ascent.step)
        if ascent.blur_sigma and iteration % ascent.blur_every == 0:
            image_TCSS = blurred(image_TCSS, ascent.blur_sigma)
        stepped()
    return image_TCSS


def objective(
    network: Network,
    layer: str,
    image_TCSS: Tensor,
    target_T: Tensor,
    *,
    l2: float,
) -> Tensor:
    """Return value_T, the objective to maximise.

    It is the target's log-probability in the softmax over the layer's spatial means, minus the
    penalty on the image. If the target's mean after the ReLU is 0, it has no gradient. The means
    before the ReLU then take its place, as in the released code. There they are means of the
    convolution's output; here, for a layer with a short name, of its batch normalisation's output.
    """
    response = _excitement(network, layer, image_TCSS, target_T, revive=True)
    normalised_TCSS = (image_TCSS / WHITE - network.mean_C11) / network.std_C11
    squares_T = normalised_TCSS.square().sum(dim=(1, 2, 3))
    return response.log_probability_T - l2 * squares_T


@torch.no_grad()
@exact_float32()
def excitement(
    network: Network,
    layer: str,
    image_TCSS: Tensor,
    target_T: Tensor,
) -> Excitement:
    """Return the targets' responses to images on a scale of 0 to 255, from maps after the ReLU."""
    return _excitement(network, layer, image_TCSS, target_T, revive=False)


def _excitement(
    network: Network,
    layer: str,
    image_TCSS: Tensor,
    target_T: Tensor,
    *,
    revive: bool,
) -> Excitement:
    """Return the targets' responses; `revive` gives a dead target a gradient, see `objective`."""
    # A short name stands for the output after the ReLU, its module for the one before it.
    before_relu = network.taps.get(layer, layer)
    raw_TFHW = network.layer_output(image_TCSS / WHITE, before_relu)
    mean_TF = mean_activation(raw_TFHW)
    target_T1 = target_T[:, None]
    activation_T1 = mean_TF.gather(1, target_T1)
    if revive:
        raw_mean_TF = raw_TFHW.mean(dim=(2, 3))
        mean_TF = torch.where(activation_T1 == 0, raw_mean_TF, mean_TF)
    log_probability_T1 = mean_TF.log_softmax(dim=1).gather(1, target_T1)
    return Excitement(activation_T1[:, 0], log_probability_T1[:, 0])


def step_along(gradient_TCSS: Tensor, length: float) -> Tensor:
    """Return each image's gradient, scaled to `length`; a zero gradient stays zero."""
    # Scale by the greatest value before squaring: the gradients of a saturated softmax are so small
    # that their squares would underflow.
    greatest_T111 = gradient_TCSS.abs().amax(dim=(1, 2, 3), keepdim=True)
    smallest = torch.finfo(gradient_TCSS.dtype).tiny
    scaled_TCSS = gradient_TCSS / greatest_T111.clamp_min(smallest)
    squares_T111 = scaled_TCSS.square().sum(dim=(1, 2, 3), keepdim=True)
    norm_T111 = squares_T111.sqrt()
    # The greatest value is now 1, so only the norm of a zero gradient is less than 1.
    factor_T111 = length / norm_T111.clamp_min(1)
    return scaled_TCSS * factor_T111


def blurred(image_TCSS: Tensor, sigma: float) -> Tensor:
    """Return images smoothed by a Gaussian, truncated at 4 sigma; borders are replicated.

    The result equals that of `scipy.ndimage.gaussian_filter` with mode `nearest`, but on any
    device. torchvision has such a filter, too, but takes a second or two to import.
    """
    radius = round(4 * sigma)
    distance_R = torch.arange(-radius, radius + 1).to(image_TCSS)
    squares_R = (distance_R / sigma).square()
    weight_R = torch.exp(-0.5 * squares_R)
    normalised_R = weight_R / weight_R.sum()
    weight_11R1 = normalised_R[None, None, :, None]
    weight_111R = normalised_R[None, None, None, :]

    # All channels of all images are smoothed alike, so they become images of one channel.
    images, channels, height, width = image_TCSS.shape
    planes_N1SS = image_TCSS.reshape(images * channels, 1, height, width)
    borders = (radius, radius, radius, radius)
    padded_N1PP = functional.pad(planes_N1SS, borders, mode="replicate")
    # A Gaussian is separable: smooth along the columns, then along the rows.
    down_N1SP = functional.conv2d(padded_N1PP, weight_11R1)
    both_N1SS = functional.conv2d(down_N1SP, weight_111R)
    return both_N1SS.reshape(image_TCSS.shape)
