"""Use any network of the package timm as a backbone. It is optional: `pip install timm`.

Importing timm takes seconds. Only the functions here import it.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn

from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.models.network import Backbone
from deepcluster_core.suggestions import closest


def build_timm(
    name: str, *, in_channels: int, image_size: int, dropout: float | None = None
) -> Backbone:
    """Build a network of timm with new weights; its feature is the input of its classifier.

    Initialisation and dropout are timm's.

    Args:
        name: a name from `timm.list_models`, without a prefix.
        in_channels: input channels of the first layer: 2 after Sobel.
        image_size: side of the images in pixels; only networks for one size, such as vision
            transformers, need it.
        dropout: ignored in favour of timm's.

    Raises:
        ConfigError: timm is not installed, or does not have the network or cannot build it for
            this input.
    """
    if find_spec("timm") is None:
        raise ConfigError(
            f"network.name: timm:{name} needs the package timm, which is not installed.\n"
            f"  Fix: pip install timm, or use torchvision:NAME."
        )
    timm: Any = import_module("timm")  # ships no complete types
    # A name can end in a tag of pretrained weights, which are not loaded.
    architecture, _, _ = name.partition(".")
    if not timm.is_model(architecture):
        known: list[str] = timm.list_models()
        close = closest(architecture, known) or known[:5]
        raise ConfigError(
            f"network.name: timm {timm.__version__} has no network {architecture!r}. "
            f"Did you mean {', '.join(close)}? It has {len(known)} of them."
        )
    arguments: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0}
    if _has_fixed_size(timm, name):
        arguments["img_size"] = image_size
    try:
        body: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"network.name: timm cannot build {name!r} for images of {in_channels} channels and "
            f"{image_size} px.\n"
            f"  Cause: {first_line(error)}\n"
            f"  Fix:   set network.image_size to the size that the network is made for, or use "
            f"another network."
        ) from error
    return Backbone(body, feature_dim=_feature_dim(body), relu_missing=False)


def _has_fixed_size(timm: Any, name: str) -> bool:  # noqa: ANN401  a module without types
    pretrained = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    return pretrained is not None and bool(pretrained.fixed_input_size)


def _feature_dim(body: Any) -> int:  # noqa: ANN401  attributes of timm's networks
    """Return the width of the output without a classifier.

    It is more than `num_features` in networks that have a hidden layer before the classifier.
    """
    return int(getattr(body, "head_hidden_size", None) or body.num_features)
