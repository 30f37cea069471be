"""Use any classification network of torchvision as a backbone.

Importing torchvision takes a second or two. Only the functions here import it, so that runs with
other networks do not wait for it.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.layers import initialise
from deepcluster_core.models.network import Backbone
from deepcluster_core.suggestions import closest

NUM_CLASSES = 1000  # torchvision's default; the classifier is dropped


def build_torchvision(
    name: str, *, in_channels: int, image_size: int, dropout: float | None = None
) -> Backbone:
    """Build a network of torchvision with new weights; its feature is its classifier's input.

    Initialisation and dropout are torchvision's, because the values of the paper are for its own
    networks. The first convolution is replaced if the input does not have 3 channels.

    Args:
        name: a name from `torchvision.models.list_models`, without a prefix.
        in_channels: input channels of the first convolution: 2 after Sobel.
        image_size: side of the images in pixels; only some networks need it.
        dropout: ignored in favour of torchvision's.

    Raises:
        ConfigError: the network does not exist, or does not end in a linear layer.
    """
    from torchvision import models  # noqa: PLC0415 (slow import, see the top)

    known = models.list_models(module=models)
    if name not in known:
        close = closest(name, known) or known[:5]
        raise ConfigError(
            f"network.name: torchvision has no classification network {name!r}. "
            f"Did you mean {', '.join(close)}? It has {len(known)} of them."
        )
    # torchvision computes the widths of a RegNet with tensors, which the meta device cannot.
    needs_values = name.startswith("regnet")
    with torch.device("cpu") if needs_values else nullcontext():
        body: nn.Module = models.get_model(name, weights=None, **_arguments(name, image_size))
    feature_dim = _drop_classifier(body, name=name)
    if in_channels != 3:
        _replace_first_conv(body, in_channels=in_channels)
    return Backbone(body, feature_dim=feature_dim, relu_missing=False)


def _arguments(name: str, image_size: int) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):
        # No auxiliary classifiers. torchvision warns if `init_weights` is not given.
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    return {}


def _drop_classifier(body: nn.Module, *, name: str) -> int:
    """Replace the last linear layer by the identity; return the number of its inputs."""
    path = ""
    classifier: nn.Linear | None = None
    for module_path, module in body.named_modules():
        if isinstance(module, nn.Linear):
            path = module_path
            classifier = module
    # A last linear layer of a different width is not the classifier.
    if classifier is None or classifier.out_features != NUM_CLASSES:
        raise ConfigError(
            f"network.name: torchvision:{name} does not end in a linear layer, so it has no "
            f"feature to cluster. Use a different one, for example torchvision:resnet18."
        )
    body.set_submodule(path, nn.Identity())
    return classifier.in_features


def _replace_first_conv(body: nn.Module, *, in_channels: int) -> None:
    names = [name for name, module in body.named_modules() if isinstance(module, nn.Conv2d)]
    path = names[0]
    old = body.get_submodule(path)
    assert isinstance(old, nn.Conv2d)
    padding = old.padding
    if not isinstance(padding, str):
        padding = (padding[0], padding[1])
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        kernel_size=(old.kernel_size[0], old.kernel_size[1]),
        stride=(old.stride[0], old.stride[1]),
        padding=padding,
        bias=old.bias is not None,
    )
    body.set_submodule(path, new.apply(initialise))
