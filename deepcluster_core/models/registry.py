"""The networks that a recipe can name in `network.name`.

To add one, write a function that builds it (a `Builder`) and add an entry to `NETWORKS`. Its module
is imported only when a network is built, so that reading a recipe imports neither torch nor
torchvision nor timm.
"""

from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from deepcluster_core.suggestions import did_you_mean

if TYPE_CHECKING:
    from deepcluster_core.models.network import Backbone


class Builder(Protocol):
    """A function that builds a backbone."""

    def __call__(self, *, in_channels: int, image_size: int, dropout: float) -> "Backbone":
        """Build a backbone with weights drawn from torch's global generator.

        Raises:
            ConfigError: the images are too small.
        """
        ...


NETWORKS = {
    "alexnet": "deepcluster_core.models.alexnet:build_alexnet",
    "vgg16": "deepcluster_core.models.vgg:build_vgg16",
    "smallnet": "deepcluster_core.models.smallnet:build_smallnet",
    "resnet18-small": "deepcluster_core.models.resnet_small:build_resnet18_small",
    "torchvision:NAME": "deepcluster_core.models.torchvision_nets:build_torchvision",
    "timm:NAME": "deepcluster_core.models.timm_nets:build_timm",
}
"""The location of each network's builder function.

The function of `FAMILY:NAME` also takes the name, and checks when it is called that the network
exists.
"""
OWN_NETWORKS = [name for name in NETWORKS if ":" not in name]


def is_known(name: str) -> bool:
    """Return whether `NETWORKS` has an entry for a value of `network.name`."""
    if name in NETWORKS:
        return True
    family, _, member = name.partition(":")
    return member != "" and f"{family}:NAME" in NETWORKS


def suggested(name: str) -> str:
    """Return the clause `; did you mean NAME?` for an unknown network, or an empty text.

    If torchvision has a network of this name, only the prefix is missing.
    """
    from torchvision import models  # a slow import, only for an error

    if name in models.list_models(module=models):
        return f"; did you mean torchvision:{name}?"
    return did_you_mean(name, NETWORKS)


def find_builder(name: str) -> Builder:
    """Import and return the function that builds the network of a known name."""
    family, _, member = name.partition(":")
    if not member:
        return resolve_name(NETWORKS[name])
    build: Any = resolve_name(NETWORKS[f"{family}:NAME"])
    return partial(build, member)
