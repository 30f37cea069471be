"""What the networks of this package are made of, and how their weights start."""

from collections import OrderedDict

from torch import nn

from deepcluster_core.errors import ConfigError


def conv_block(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, padding: int = 1
) -> nn.Sequential:
    """Return convolution, batch normalisation and ReLU; linear probes read the block's output.

    The convolution keeps its bias although batch normalisation cancels it, so that the layers and
    their parameter counts are torchvision's `vgg16_bn`, and such weights map one to one.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
    bn, relu = nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    return nn.Sequential(OrderedDict[str, nn.Module](conv=conv, bn=bn, relu=relu))


def flat_size(maps: nn.Sequential, *, image_size: int, network: str) -> int:
    """Return the number of values that `maps` makes of one square image.

    Args:
        maps: convolutions and max-pools, one after the other.
        image_size: side of the images, pixels.
        network: what the error calls the network.

    Raises:
        ConfigError: nothing is left of such a small image.
    """
    side = _side_after(maps, image_size)
    if side < 1:
        smallest = next(size for size in range(image_size, 10_000) if _side_after(maps, size) > 0)
        raise ConfigError(
            f"network {network}: images of {image_size} px are too small, nothing is left of them "
            f"after the last max-pool.\n"
            f"  Fix:   give it images of at least {smallest} px, or use a smaller network."
        )
    last_conv = [module for module in maps.modules() if isinstance(module, nn.Conv2d)][-1]
    return last_conv.out_channels * side * side


def _side_after(maps: nn.Sequential, side: int) -> int:
    """Return the side of the last map, pixels; 0 when a layer on the way has nothing to read."""
    for module in maps.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and side > 0:
            kernel, stride, padding = (
                value if isinstance(value, int) else int(value[0])
                for value in (module.kernel_size, module.stride, module.padding)
            )
            side = max(0, (side + 2 * padding - kernel) // stride + 1)
    return side


def initialise(module: nn.Module) -> None:
    """Set the weights of one layer as the released code does; use as `network.apply(initialise)`.

    Convolutions He-normal by fan-out, linear layers N(0, 0.01), biases 0; batch normalisation
    starts as the identity. Draws from torch's global generator.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, mean=0.0, std=0.01)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
