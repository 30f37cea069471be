"""Learn an image that excites one filter more than the others of its layer (figure 4).

Section 4.2 follows Yosinski et al. 2015, "Understanding neural networks through deep
visualization", with a cross-entropy between the target filter and the others; the numbers are
those of the authors' released code.

Suffixes: T targets, each with an image of its own, C channels, S side of the image, F filters.
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
"""Images in a pass. What an image becomes does not depend on those beside it."""

WHITE = 255


@dataclass(frozen=True)
class Ascent:
    """How an image climbs. Lengths are L2 norms over all values of one image, on 0 to 255."""

    step: float
    """Length of every step."""
    iterations: int
    l2: float
    """Penalty on the sum of squares of the image as the network normalises it."""
    blur_sigma: float
    """Of the Gaussian, pixels; 0 never blurs."""
    blur_every: int
    """Steps between two blurs."""


@dataclass(frozen=True)
class Start:
    """The noise that images start as: normal, on a scale of 0 to 255, not cut off at its ends."""

    mean: float
    std: float
    seed: int
    """Of the run."""

    def image(self, layer: str, target: int, *, channels: int, size: int) -> Tensor:
        """Return start_CSS, the same whatever else is learnt, and in every epoch of a run."""
        generator = seeding.numpy_generator(self.seed, "maximal", "start", layer, target)
        noise_CSS = generator.normal(self.mean, self.std, (channels, size, size))
        return torch.from_numpy(noise_CSS).float()


@dataclass(frozen=True)
class Excitement:
    """What images do to their targets."""

    activation_T: Tensor
    """Spatial mean of the target's map after its ReLU."""
    log_probability_T: Tensor
    """Of the target, in the softmax over the means of all filters of the layer; nats."""


@dataclass(frozen=True)
class Learnt:
    """An image that has climbed, and what it did to its target before and after."""

    image_SSC: NDArray[np.uint8]
    """Cut off at 0 and 255."""
    start_activation: float
    activation: float
    start_log_probability: float
    log_probability: float


def iterations_for(step: float, *, channels: int, size: int) -> int:
    """Return how many steps lead, for a value of the image, as far as those of figure 4.

    Those are 30,000 steps of 3 for conv1 or 3,000 of 30 for conv5, at 224 px in colour.

    Args:
        step: their length, see `Ascent`.
        channels: of the images.
        size: S.
    """
    return max(1, round(30_000 * 3 / step * size / 224 * math.sqrt(channels / 3)))


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
    """Yield an image learnt for each target, `AT_ONCE` at a time, on the network's device.

    Args:
        network: in eval mode; computes no gradients of its weights from now on.
        layer: see `Network.layer_output`.
        targets: numbers of filters.
        ascent: how.
        start: from where.
        size: S.
        stepped: called after each step of a pass.
    """
    network.requires_grad_(False)
    channels, device = len(network.mean_C11), network.mean_C11.device
    for first in range(0, len(targets), AT_ONCE):
        group = targets[first : first + AT_ONCE]
        starts = [start.image(layer, target, channels=channels, size=size) for target in group]
        start_TCSS, target_T = torch.stack(starts).to(device), torch.tensor(group, device=device)
        image_TCSS = climb(network, layer, target_T, start_TCSS, ascent, stepped=stepped)
        before = excitement(network, layer, start_TCSS, target_T)
        after = excitement(network, layer, image_TCSS, target_T)
        shown_TSSC = image_TCSS.clamp(0, WHITE).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for place, image_SSC in enumerate(shown_TSSC):
            yield Learnt(
                image_SSC,
                start_activation=float(before.activation_T[place]),
                activation=float(after.activation_T[place]),
                start_log_probability=float(before.log_probability_T[place]),
                log_probability=float(after.log_probability_T[place]),
            )


def passes(num_targets: int) -> int:
    """Return how many passes `learn_images` makes."""
    return -(-num_targets // AT_ONCE)


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
    """Return image_TCSS, each `iterations` steps up the gradient of its objective.

    Values are not held to 0 to 255: neither the paper nor the released code's numbers ask for it.

    Args:
        network: in eval mode.
        layer: see `Network.layer_output`.
        target_T: int64, on the network's device.
        start_TCSS: likewise, of 0 to 255.
        ascent: how.
        stepped: called after each step of all images.
    """
    image_TCSS = start_TCSS
    for iteration in range(1, ascent.iterations + 1):
        image_TCSS = image_TCSS.detach().requires_grad_()
        value_T = objective(network, layer, image_TCSS, target_T, l2=ascent.l2)
        (gradient_TCSS,) = torch.autograd.grad(value_T.sum(), image_TCSS)
        image_TCSS = image_TCSS.detach() + step_along(gradient_TCSS, ascent.step)
        if ascent.blur_sigma and iteration % ascent.blur_every == 0:
            image_TCSS = blurred(image_TCSS, ascent.blur_sigma)
        stepped()
    return image_TCSS


def objective(
    network: Network, layer: str, image_TCSS: Tensor, target_T: Tensor, *, l2: float
) -> Tensor:
    """Return value_T to raise: the target's log-probability less the penalty of its image.

    Minus the cross-entropy of the layer's spatial means towards the target. Where the target's
    mean is 0 after the ReLU, and has no gradient, the means are those before the ReLU, as in the
    released code, which takes the convolution's output there; ours, of a layer with a short name,
    is the output of its batch normalisation.
    """
    done = _excitement(network, layer, image_TCSS, target_T, revive=True)
    normalised_TCSS = (image_TCSS / WHITE - network.mean_C11) / network.std_C11
    return done.log_probability_T - l2 * normalised_TCSS.square().sum(dim=(1, 2, 3))


@torch.no_grad()
@exact_float32()
def excitement(network: Network, layer: str, image_TCSS: Tensor, target_T: Tensor) -> Excitement:
    """Return what images of 0 to 255 do to their targets, all maps after their ReLU."""
    return _excitement(network, layer, image_TCSS, target_T, revive=False)


def _excitement(
    network: Network, layer: str, image_TCSS: Tensor, target_T: Tensor, *, revive: bool
) -> Excitement:
    raw_TFHW = network.layer_output(image_TCSS / WHITE, network.taps.get(layer, layer))
    mean_TF = mean_activation(raw_TFHW)
    target_T1 = target_T[:, None]
    activation_T1 = mean_TF.gather(1, target_T1)
    if revive:
        mean_TF = torch.where(activation_T1 == 0, raw_TFHW.mean(dim=(2, 3)), mean_TF)
    log_probability_T1 = mean_TF.log_softmax(dim=1).gather(1, target_T1)
    return Excitement(activation_T1[:, 0], log_probability_T1[:, 0])


def step_along(gradient_TCSS: Tensor, length: float) -> Tensor:
    """Return each image's gradient, made `length` long; none where it is 0."""
    greatest_T111 = gradient_TCSS.abs().amax(dim=(1, 2, 3), keepdim=True)
    smallest = torch.finfo(gradient_TCSS.dtype).tiny
    # Scaled before it is squared: squares of a softmax's last gradients would vanish.
    scaled_TCSS = gradient_TCSS / greatest_T111.clamp_min(smallest)
    norm_T111 = scaled_TCSS.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return scaled_TCSS * (length / norm_T111.clamp_min(1))


def blurred(image_TCSS: Tensor, sigma: float) -> Tensor:
    """Return images behind a Gaussian, cut off at 4 sigma; beyond the border its pixels go on.

    As `scipy.ndimage.gaussian_filter` with mode `nearest`, but on any device. torchvision's own
    takes a second or two to import.
    """
    radius = round(4 * sigma)
    place_R = torch.arange(-radius, radius + 1, dtype=image_TCSS.dtype, device=image_TCSS.device)
    weight_R = torch.exp(-0.5 * (place_R / sigma).square())
    weight_11R1 = (weight_R / weight_R.sum())[None, None, :, None]
    images, channels, height, width = image_TCSS.shape
    each_N1SS = image_TCSS.reshape(images * channels, 1, height, width)
    padded_N1PP = functional.pad(each_N1SS, (radius,) * 4, mode="replicate")
    down_N1SP = functional.conv2d(padded_N1PP, weight_11R1)
    return functional.conv2d(down_N1SP, weight_11R1.transpose(2, 3)).reshape(image_TCSS.shape)
