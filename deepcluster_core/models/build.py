"""Build the network that a recipe describes, or compute its sizes without building it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.models.config import IMAGENET_MEAN, IMAGENET_STD, NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.models.projection import projection_head
from deepcluster_core.models.registry import OWN_NETWORKS, find_builder
from deepcluster_core.models.sobel import Sobel
from deepcluster_core.models.weights import fitting_state, load_starting_weights
from deepcluster_core.seeding import torch_seeded


def build_network(config: NetworkConfig, *, channels: int, seed: int) -> Network:
    """Build a network on the CPU in training mode, with weights from the seed or a file.

    The file is `network.weights`; what it does not hold, such as a projection, has weights from the
    seed.

    Args:
        config: the network section of a recipe.
        channels: number of channels of the images.
        seed: seed of the weights, 0 to 2**63 - 1. The global generator is not changed.

    Raises:
        ConfigError: raised by `feature_dim_of` or `load_starting_weights`.
    """
    feature_dim_of(config, channels=channels)
    with torch_seeded(seed):
        network = _assemble(config, channels=channels)
    if config.weights is not None:
        load_starting_weights(network, config.weights, name=config.name)
    return network


def build_without_weights(config: NetworkConfig, *, channels: int) -> Network:
    """Build a network in training mode whose state must be loaded with `assign=True`.

    Its parameters and saved buffers are on the meta device, where nothing is allocated or drawn:
    for AlexNet that takes 0.03 s instead of 0.46 s, on two cores.

    Args:
        config: the network section of a recipe.
        channels: number of channels of the images.

    Raises:
        ConfigError: raised by `feature_dim_of`.
    """
    feature_dim_of(config, channels=channels)
    network = _unfilled(config, channels=channels)
    saved = network.state_dict().keys()
    if any(buffer.is_meta for name, buffer in network.named_buffers() if name not in saved):
        # No state has these buffers, such as the masks of a Swin transformer in timm: they are
        # computed when a network is built.
        with torch_seeded(0):
            return _assemble(config, channels=channels)
    return network


def feature_dim_of(config: NetworkConfig, *, channels: int, layer: str | None = None) -> int:
    """Return the dimension of the network's feature after a trial pass on images of this size.

    This takes a fraction of a second, because no weights are allocated. Only torchvision's RegNets
    take as long as building them.

    Args:
        config: the network section of a recipe.
        channels: number of channels of the images.
        layer: return the dimension of this layer's output averaged over space instead; see
            `Network.layer_feature`.

    Raises:
        ConfigError: the network or layer does not exist, the network does not accept images of this
            size, or `mean` or `std` does not match the channels.
    """
    size = config.image_size
    try:
        network = _weightless(config, channels=channels)
        with _on_trial(network, channels=channels, size=size) as images_NCHW:
            if layer is not None:
                return network.layer_feature(images_NCHW, layer).shape[1]
            found = network.feature(images_NCHW).shape[1:]
    except (RuntimeError, ValueError, AssertionError) as error:  # torch's errors about shapes
        cause = first_line(error)
        raise ConfigError(
            f"network {config.name} does not accept images of {channels} channels and "
            f"{size} px.\n  Cause: {cause}\n"
            f"  Fix:   set network.image_size (224 fits all) and extract.resize, or network.name."
        ) from error
    assert found == (network.feature_dim,), f"{config.name}: feature has shape {found}"
    return network.feature_dim


def check_weights(config: NetworkConfig, *, channels: int) -> None:
    """Raise ConfigError if `network.weights` cannot be read, or belongs to a different network.

    Args:
        config: the network section of a recipe, which `feature_dim_of` accepts.
        channels: number of channels of the images.
    """
    if config.weights is not None:
        network = _weightless(config, channels=channels)
        fitting_state(network, config.weights, name=config.name)


def accepts_size(config: NetworkConfig, *, channels: int, size: int) -> bool:
    """Return whether the network takes square images of another side than `network.image_size`.

    Networks that average their last map do, unless the images are too small; those with linear
    layers of a fixed size, such as AlexNet, or with tokens of a fixed number, do not. The trial
    pass allocates no weights.

    Args:
        config: the network section of a recipe, which `feature_dim_of` accepts.
        channels: number of channels of the images.
        size: side of the images in pixels.
    """
    network = _weightless(config, channels=channels)
    with _on_trial(network, channels=channels, size=size) as images_NCSS:
        try:
            found = network.feature(images_NCSS).shape[1:]
        except (RuntimeError, ValueError, AssertionError):  # torch's errors about shapes
            return False
    return found == (network.feature_dim,)


@dataclass(frozen=True)
class Footprint:
    """The size of a network, for estimates of memory and disk space."""

    weights: int
    """Number of values in all weights."""
    activations: int
    """Number of values in the outputs of all layers for one image."""


def footprint_of(config: NetworkConfig, *, channels: int, size: int | None = None) -> Footprint:
    """Return the footprint of a network that `feature_dim_of` accepts; no weight is allocated.

    Args:
        config: the network section of a recipe.
        channels: number of channels of the images.
        size: side of the images in pixels, which the network accepts; None for `image_size`.
    """
    network = _weightless(config, channels=channels)
    activations = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal activations
        if isinstance(output, Tensor):
            # No values at all if no image passes through.
            activations += output.numel() or math.prod(output.shape[1:])

    # Only modules without children, because the others return the outputs of their children.
    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(count)
    size = size or config.image_size
    with _on_trial(network, channels=channels, size=size) as images_NCHW:
        network.project(network.feature(images_NCHW))
    num_weights = sum(weight.numel() for weight in network.parameters())
    return Footprint(num_weights, activations)


def _weightless(config: NetworkConfig, *, channels: int) -> Network:
    """Return the network in eval mode, with shapes but no values, on the device of its trial pass.

    A batch of no images passes through this package's networks on the CPU, where memory that nobody
    touches costs nothing. On the meta device the pass would import torch's compiler, for 1.3 s of
    CPU time. Networks of torchvision and timm import it anyway, and not all accept such a batch.
    """
    network = _unfilled(config, channels=channels).eval()
    if config.name not in OWN_NETWORKS:
        return network.to("meta")
    # Not `to_empty`, which asks the meta device for copies.
    state = network.state_dict()
    empty = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in state.items()}
    network.load_state_dict(empty, assign=True)
    return network


@contextmanager
def _on_trial(network: Network, *, channels: int, size: int) -> Iterator[Tensor]:
    """Yield images_NCSS for a trial pass through a network of `_weightless`; compute no gradient.

    N is 1 on the meta device and 0 on the CPU.
    """
    device = network.mean_C11.device
    num_images = 1 if device.type == "meta" else 0
    with device, torch.no_grad():
        yield torch.empty(num_images, channels, size, size, dtype=torch.uint8)


def _unfilled(config: NetworkConfig, *, channels: int) -> Network:
    # Seeded only to leave the global generator unchanged; nothing that is drawn is kept.
    with torch_seeded(0):
        return _assemble(config, channels=channels, place=torch.device("meta"))


def _assemble(
    config: NetworkConfig, *, channels: int, place: torch.device | None = None
) -> Network:
    """Assemble a network with its backbone and projection on a device.

    The input transform stays on the CPU, because no checkpoint contains it.
    """
    mean = _per_channel("mean", config.mean, default=IMAGENET_MEAN, channels=channels)
    std = _per_channel("std", config.std, default=IMAGENET_STD, channels=channels)
    in_channels = Sobel.out_channels if config.sobel else channels
    projection = output_dim = None
    with place or nullcontext():
        build_backbone = find_builder(config.name)
        backbone = build_backbone(
            in_channels=in_channels, image_size=config.image_size, dropout=config.dropout
        )
        # After the backbone, whose random weights it therefore does not change.
        if config.projection is not None:
            projection = projection_head(config.projection, in_dim=backbone.feature_dim)
            output_dim = config.projection.dim
    return Network(
        backbone,
        mean=mean,
        std=std,
        sobel=config.sobel,
        projection=projection,
        output_dim=output_dim,
    )


def _per_channel(
    key: str, given: tuple[float, ...] | None, *, default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    if given is None:
        if channels == 3:
            return default
        average = sum(default) / len(default)
        return (average,) * channels
    if len(given) != channels:
        raise ConfigError(
            f"network.{key}: has {len(given)} values, but the images have {channels} channels.\n"
            f"  Fix:   give one value per channel, or leave it out."
        )
    return given
