"""AlexNet with batch normalisation, without local response normalisation and without groups."""

from collections import OrderedDict

from torch import nn

from deepcluster_core.models.layers import conv_block, flat_size, initialise
from deepcluster_core.models.network import Backbone, Halves, Window

FEATURE_DIM = 4096

# Filters: section 3.4 of the paper; kernels, strides and paddings: the released code.
# name -> out_channels, kernel, stride, padding, whether a max-pool 3/2 follows
LAYERS = {
    "conv1": (96, 11, 4, 2, True),
    "conv2": (256, 5, 1, 2, True),
    "conv3": (384, 3, 1, 1, False),
    "conv4": (384, 3, 1, 1, False),
    "conv5": (256, 3, 1, 1, True),
}

# From the released code of the linear classifiers, for images of 224 px.
WINDOWS = {
    "conv1": Window(55, 6, 6, 3),
    "conv2": Window(27, 4, 4, 0),
    "conv3": Window(13, 3, 3, 1),
    "conv4": Window(13, 3, 3, 1),
    "conv5": Window(13, 2, 2, 0),
}


def build_alexnet(*, in_channels: int, image_size: int, dropout: float) -> Backbone:
    """Build AlexNet up to fc7; its feature is fc7's output, 4096 values.

    Args:
        in_channels: input channels of the first convolution: 2 after Sobel.
        image_size: side of the images, pixels; 224 in the paper.
        dropout: probability before fc6 and before fc7, 0 to 1; 0.5 in the released code.

    Raises:
        ConfigError: the images are too small.
    """
    maps = nn.Sequential()
    for name, (out_channels, kernel, stride, padding, is_pooled) in LAYERS.items():
        pool = (3, 2) if is_pooled else None
        block = conv_block(
            in_channels, out_channels, kernel=kernel, stride=stride, padding=padding, pool=pool
        )
        maps.add_module(name, block)
        in_channels = out_channels

    flat_dim = flat_size(maps, image_size=image_size, network="alexnet")
    layers = OrderedDict[str, nn.Module](
        maps=maps,
        flatten=nn.Flatten(),
        drop6=nn.Dropout(dropout),
        fc6=nn.Linear(flat_dim, FEATURE_DIM),
        relu6=nn.ReLU(inplace=True),
        drop7=nn.Dropout(dropout),
        fc7=nn.Linear(FEATURE_DIM, FEATURE_DIM),
    )
    body = nn.Sequential(layers).apply(initialise)
    taps = {name: f"maps.{name}.bn" for name in LAYERS}
    return Backbone(
        body,
        feature_dim=FEATURE_DIM,
        relu_missing=True,
        taps=taps,
        windows=WINDOWS,
        halves=Halves(maps="maps", flatten="flatten"),
    )
