"""VGG-16 with batch normalisation (Simonyan and Zisserman 2014, configuration D)."""

from collections import OrderedDict

from torch import nn

from deepcluster_core.models.layers import conv_block, flat_size, initialise
from deepcluster_core.models.network import Backbone, Halves, Window

FEATURE_DIM = 4096

# One row per stage: output channels of its 3x3 convolutions; a max-pool 2/2 ends each stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

# From the released code of DeeperCluster, the authors' later work, for images of 224 px.
WINDOWS = {
    "conv1": Window(224, 18, 18, 0),
    "conv2": Window(224, 18, 18, 0),
    "conv3": Window(112, 14, 14, 0),
    "conv4": Window(112, 14, 14, 0),
    "conv5": Window(56, 9, 9, 0),
    "conv6": Window(56, 9, 9, 0),
    "conv7": Window(56, 9, 9, 0),
    "conv8": Window(28, 6, 6, 0),
    "conv9": Window(28, 6, 6, 0),
    "conv10": Window(28, 6, 6, 0),
    "conv11": Window(14, 3, 3, 0),
    "conv12": Window(14, 3, 3, 0),
    "conv13": Window(14, 3, 3, 0),
}


def build_vgg16(*, in_channels: int, image_size: int, dropout: float) -> Backbone:
    """Build VGG-16 up to fc7; its feature is fc7's output, 4096 values.

    Args:
        in_channels: input channels of the first convolution: 2 after Sobel.
        image_size: side of the images, pixels; 224 in the paper.
        dropout: probability, 0 to 1. It is applied once, after fc6, as in the released code;
            Simonyan and Zisserman have a second dropout after fc7.

    Raises:
        ConfigError: the images are too small.
    """
    maps = nn.Sequential()
    taps: dict[str, str] = {}
    for widths in STAGES:
        for depth, out_channels in enumerate(widths, start=1):
            # Numbered 1 to 13 through the stages, as the tables of linear probes count them.
            name = f"conv{len(taps) + 1}"
            pool = (2, 2) if depth == len(widths) else None
            maps.add_module(name, conv_block(in_channels, out_channels, pool=pool))
            taps[name] = f"maps.{name}.bn"
            in_channels = out_channels

    flat_dim = flat_size(maps, image_size=image_size, network="vgg16")
    layers = OrderedDict[str, nn.Module](
        maps=maps,
        flatten=nn.Flatten(),
        fc6=nn.Linear(flat_dim, FEATURE_DIM),
        relu6=nn.ReLU(inplace=True),
        drop6=nn.Dropout(dropout),
        fc7=nn.Linear(FEATURE_DIM, FEATURE_DIM),
    )
    body = nn.Sequential(layers).apply(initialise)
    return Backbone(
        body,
        feature_dim=FEATURE_DIM,
        relu_missing=True,
        taps=taps,
        windows=WINDOWS,
        halves=Halves(maps="maps", flatten="flatten"),
    )
