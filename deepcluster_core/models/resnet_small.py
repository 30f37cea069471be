"""ResNet-18 for images of 32 to 96 pixels: a stem that keeps their resolution.

torchvision's stem (7x7 convolution of stride 2 and max-pool) leaves 8 x 8 positions of an image of
32 pixels, and its last map is a single one. This is the usual variant for CIFAR: a 3x3 convolution
of stride 1 without a max-pool. An image of equal size takes 15 times the multiplications.
"""

from collections import OrderedDict

from torch import Tensor, nn

from deepcluster_core.models.layers import initialise
from deepcluster_core.models.network import Backbone

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2
"""Residual blocks in each of the four stages."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. The names are those of torchvision's block."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels, kernel=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _convolution(out_channels, out_channels, kernel=3, stride=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                _convolution(in_channels, out_channels, kernel=1, stride=stride),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return the maps after the last ReLU."""
        shortcut_NCHW = maps_NCHW if self.downsample is None else self.downsample(maps_NCHW)
        inner_NCHW = self.relu(self.bn1(self.conv1(maps_NCHW)))
        return self.relu(self.bn2(self.conv2(inner_NCHW)) + shortcut_NCHW)


def build_resnet18_small(*, in_channels: int, image_size: int, dropout: float) -> Backbone:
    """Build the network; its feature is the average of the last map, 512 values.

    Weights are named as in torchvision's `resnet18` and initialised as in the paper of ResNet:
    He-normal by fan-out.

    Args:
        in_channels: input channels of the first convolution: 2 after Sobel.
        image_size: ignored, because images may have any size.
        dropout: ignored, because the network has no linear layer.
    """
    layers = OrderedDict[str, nn.Module](
        conv1=_convolution(in_channels, WIDTHS[0], kernel=3, stride=1),
        bn1=nn.BatchNorm2d(WIDTHS[0]),
        relu=nn.ReLU(inplace=True),
    )
    num_channels = WIDTHS[0]
    for number, width in enumerate(WIDTHS, start=1):
        stage = nn.Sequential()
        for block in range(BLOCKS):
            # Each stage but the first halves the sides of the map in its first block.
            stride = 2 if number > 1 and block == 0 else 1
            stage.append(BasicBlock(num_channels, width, stride=stride))
            num_channels = width
        layers[f"layer{number}"] = stage
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    body = nn.Sequential(layers).apply(initialise)
    # The stages end with a ReLU, which does not change when it is applied again to a tap.
    taps = {f"layer{number}": f"layer{number}" for number in range(1, len(WIDTHS) + 1)}
    return Backbone(body, feature_dim=WIDTHS[-1], relu_missing=False, taps=taps)


def _convolution(in_channels: int, out_channels: int, *, kernel: int, stride: int) -> nn.Conv2d:
    """Return a convolution whose bias the batch normalisation after it makes superfluous."""
    padding = kernel // 2
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
