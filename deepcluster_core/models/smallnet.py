"""A small network for images of 16 to 64 pixels. It is our own and not in the paper."""

from collections import OrderedDict

from torch import nn

from deepcluster_core.models.layers import conv_block, flat_size, initialise
from deepcluster_core.models.network import Backbone, Halves

FEATURE_DIM = 256
WIDTHS = (32, 64, 128, 256)


def build_smallnet(*, in_channels: int, image_size: int, dropout: float) -> Backbone:
    """Build four convolutions and two linear layers; its feature is the second one's output.

    Args:
        in_channels: input channels of the first convolution: 2 after Sobel.
        image_size: side of the images in pixels. More than 64 works, but the first linear layer
            grows with the area.
        dropout: probability before each linear layer, 0 to 1.

    Raises:
        ConfigError: the images are too small.
    """
    maps = nn.Sequential()
    taps: dict[str, str] = {}
    for number, out_channels in enumerate(WIDTHS, start=1):
        name = f"conv{number}"
        maps.add_module(name, conv_block(in_channels, out_channels, pool=(2, 2)))
        taps[name] = f"maps.{name}.bn"
        in_channels = out_channels

    flat_dim = flat_size(maps, image_size=image_size, network="smallnet")
    layers = OrderedDict[str, nn.Module](
        maps=maps,
        flatten=nn.Flatten(),
        drop5=nn.Dropout(dropout),
        fc5=nn.Linear(flat_dim, FEATURE_DIM),
        relu5=nn.ReLU(inplace=True),
        drop6=nn.Dropout(dropout),
        fc6=nn.Linear(FEATURE_DIM, FEATURE_DIM),
    )
    body = nn.Sequential(layers).apply(initialise)
    body.apply(_he_normal)  # replaces the weights of the linear layers
    return Backbone(
        body,
        feature_dim=FEATURE_DIM,
        relu_missing=True,
        taps=taps,
        halves=Halves(maps="maps", flatten="flatten"),
    )


def _he_normal(module: nn.Module) -> None:
    """Initialise linear layers He-normal, which was measured to learn faster than N(0, 0.01).

    At 256 inputs N(0, 0.01) shrinks a signal about ninefold in each layer; He-normal keeps it.
    """
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
