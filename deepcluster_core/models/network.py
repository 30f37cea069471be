"""A network as the pipeline sees it: uint8 images in, one feature per image out.

Suffixes: N images, C channels, H rows, W columns, D values of a feature.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.sobel import Sobel
from deepcluster_core.suggestions import closest
from deepcluster_core.text import listed

MAX_LAYERS_SHOWN = 20


class Window(NamedTuple):
    """An average pooling for maps of one size. Zeros of the padding count in the mean."""

    map_side: int
    kernel: int
    stride: int
    padding: int


class Halves(NamedTuple):
    """Names of the children at which a body that is an `nn.Sequential` can be split."""

    maps: str
    """Name of an `nn.Sequential` of convolutions, the last with a max-pool."""
    flatten: str
    """Name of the layer between the map and the two linear layers."""


@dataclass(frozen=True)
class Backbone:
    """The result of a builder: the layers from filtered images to the feature, described."""

    body: nn.Module
    """Module that maps float images (N, C, H, W) to features (N, `feature_dim`)."""

    feature_dim: int
    """Number of values of a feature."""

    relu_missing: bool
    """Whether the body ends before its last ReLU, which training then adds."""

    taps: dict[str, str] = field(default_factory=dict[str, str])
    """Short name -> module of `body` whose output, through a ReLU, is the map to probe."""

    windows: Mapping[str, Window] = field(default_factory=dict[str, Window])
    """Short name -> how published linear classifiers pool that map."""

    halves: Halves | None = None
    """Where the body can be split into convolutions and linear layers; None if it cannot."""


class Network(nn.Module):
    """Input transform, optional Sobel filter, backbone and optional projection head.

    It reads images as uint8, 0 to 255, or as float, 0 to 1, and converts them on their own device,
    so that batches are transferred as bytes. It works under autocast and in channels-last memory.
    """

    feature_dim: int
    """Number of values of a feature."""
    windows: Mapping[str, Window]
    """`Backbone.windows` of the backbone."""
    halves: Halves | None
    """`Backbone.halves` of the backbone."""
    output_dim: int
    """Number of values of the output of `forward`."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        sobel: bool,
        projection: nn.Module | None = None,
        output_dim: int | None = None,
    ) -> None:
        """Assemble the parts.

        Args:
            backbone: its input channels must match the filter's output or, without a filter, the
                images.
            mean: one value per channel of the images, on a scale of 0 to 1.
            std: one value above 0 per channel, on that scale.
            sobel: whether the fixed filter precedes the backbone.
            projection: module that maps hidden_ND, the input of the head in training, to
                embeddings (N, `output_dim`).
            output_dim: number of values of an embedding; None without a projection.
        """
        super().__init__()
        # Not saved, because a checkpoint holds only learnt values, and these are configured.
        self.mean_C11 = nn.Buffer(_column(mean), persistent=False)
        self.std_C11 = nn.Buffer(_column(std), persistent=False)
        self.sobel = Sobel(mean, std) if sobel else None
        self.backbone: nn.Module = backbone.body
        self.last_relu: nn.Module = nn.Identity()
        if backbone.relu_missing:
            # Not in place, because the feature before it may be in use by the caller.
            self.last_relu = nn.ReLU()
        self.projection = projection
        self.feature_dim = backbone.feature_dim
        self.output_dim = output_dim or backbone.feature_dim
        self.windows = backbone.windows
        self.halves = backbone.halves
        self._taps: dict[str, str] = {}
        for tap, module_in_body in backbone.taps.items():
            self._taps[tap] = f"backbone.{module_in_body}"

    @property
    def taps(self) -> dict[str, str]:
        """Short name of each layer to probe, such as `conv1` -> its name in `named_modules()`.

        The short name stands for the map after batch normalisation and ReLU, before the max-pool;
        the module itself ends before the ReLU. Empty for torchvision's networks.
        """
        return dict(self._taps)

    def inputs(self, images_NCHW: Tensor) -> Tensor:
        """Return the input of the backbone: the maps of the filter, or the normalised images.

        Images may have any height and width.
        """
        num_channels = len(self.mean_C11)
        shape = tuple(images_NCHW.shape)
        if len(shape) != 4 or shape[1] != num_channels:
            # Checked here because one channel would silently broadcast to three.
            raise ValueError(f"images have shape {shape}, expected (N, {num_channels}, H, W)")
        is_bytes = images_NCHW.dtype == torch.uint8
        if not is_bytes and not images_NCHW.is_floating_point():
            raise TypeError(f"images are {images_NCHW.dtype}, expected uint8 or float")
        if self.sobel is not None and is_bytes:
            return self.sobel(images_NCHW)  # it converts them itself, in pieces
        wide_NCHW = images_NCHW.to(self.mean_C11.dtype)
        if self.sobel is not None:
            return self.sobel(wide_NCHW)
        # (x / white - mean) / std in one operation: x / (white std) - mean / std.
        white_C11 = self.std_C11 * 255 if is_bytes else self.std_C11
        scale_C11 = 1 / white_C11
        shift_C11 = -self.mean_C11 / self.std_C11
        return torch.addcmul(shift_C11, wide_NCHW, scale_C11)

    def feature(self, images_NCHW: Tensor) -> Tensor:
        """Return feature_ND, which is clustered; call it in eval mode.

        For the networks of this package it is the output before the last ReLU, which the authors
        found best; for torchvision's it is the input of the removed classifier.
        """
        feature_ND: Tensor = self.backbone(self.inputs(images_NCHW))
        return feature_ND

    def hidden(self, images_NCHW: Tensor) -> Tensor:
        """Return hidden_ND, the feature after the last ReLU."""
        hidden_ND: Tensor = self.last_relu(self.feature(images_NCHW))
        return hidden_ND

    def project(self, hidden_ND: Tensor) -> Tensor:
        """Return the embeddings (N, `output_dim`) of hidden_ND, or itself without a projection."""
        if self.projection is None:
            return hidden_ND
        embedding_ND: Tensor = self.projection(hidden_ND)
        return embedding_ND

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the input of the classifier in training, (N, `output_dim`)."""
        return self.project(self.hidden(images_NCHW))

    def layer_feature(self, images_NCHW: Tensor, layer: str) -> Tensor:
        """Return feature_ND of any layer: its output, averaged over space.

        The mean is over rows and columns of (N, C, H, W), or over the tokens of (N, tokens, D) in
        vision transformers. Do not use it for networks with channels last (N, H, W, C), such as
        torchvision's `swin` family, where this mean is wrong; use `layer_output`.

        Args:
            images_NCHW: uint8 from 0 to 255, or float from 0 to 1.
            layer: name of the layer, as in `layer_output`.

        Raises:
            ConfigError: the layer does not exist, or its output is not a tensor.
        """
        output = self.layer_output(images_NCHW, layer)
        if output.ndim == 4:
            return output.mean(dim=(2, 3))
        if output.ndim == 3:
            return output.mean(dim=1)
        return output.flatten(start_dim=1)

    def layer_output(self, images_NCHW: Tensor, layer: str) -> Tensor:
        """Return the whole output of any layer, (N, C, H, W) for a convolution.

        The pass ends at this layer: later layers cost nothing, cannot overwrite the output in
        place, and need not support the size of the images, so images may be larger than usual.

        Args:
            images_NCHW: uint8 from 0 to 255, or float from 0 to 1.
            layer: a key of `taps`, or a name in `named_modules()` of the network or the backbone,
                such as `layer4`. A module that runs several times gives its first output.

        Raises:
            ConfigError: the layer does not exist, does not run, or its output is not a tensor.
        """
        return self.read_layers(images_NCHW, {layer: _as_it_is})[layer]

    def read_layers(
        self, images_NCHW: Tensor, readers: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> dict[str, Tensor]:
        """Apply a function to the whole output of each of several layers, in one pass.

        The pass ends at the last of these layers.

        Args:
            images_NCHW: uint8 from 0 to 255, or float from 0 to 1.
            readers: a function for each layer, named as in `layer_output`. It is called when the
                layer has run, so that the maps of all layers are never in memory together. It must
                return a new tensor, because later layers may overwrite the output in place.

        Raises:
            ConfigError: a layer does not exist, does not run, or its output is not a tensor.
        """
        found: dict[str, Tensor] = {}
        hooks: list[RemovableHandle] = []
        try:
            for layer, reader in readers.items():
                module = self.get_submodule(self.module_name(layer))
                is_tap = layer in self._taps
                read = _hook(layer, reader, found, is_tap=is_tap, of=len(readers))
                hooks.append(module.register_forward_hook(read))
            self(images_NCHW)
        except _ReachedError:
            # In the order of the readers, which may differ from that of the layers.
            return {layer: found[layer] for layer in readers}
        finally:
            for hook in hooks:
                hook.remove()
        absent = [layer for layer in readers if layer not in found]
        raise ConfigError(f"layer {absent[0]!r} takes no part in the forward pass of this network.")

    def module_name(self, layer: str) -> str:
        """Return the name in `named_modules()` of a layer that is named as in `layer_output`.

        Raises:
            ConfigError: the layer does not exist.
        """
        known = dict(self.named_modules())
        name = self._taps.get(layer, layer)
        for full_name in (name, f"backbone.{name}"):
            if name and full_name in known:
                return full_name
        self._raise_unknown_layer(layer)

    def _raise_unknown_layer(self, layer: str) -> NoReturn:
        """Raise ConfigError with the known layers, those of similar names first."""
        names = [name for name, _ in self.named_modules() if name]  # the network has no name
        by_depth = sorted(names, key=lambda name: name.count("."))
        known = [*self._taps, *by_depth]
        close = closest(layer, known, limit=MAX_LAYERS_SHOWN)
        closest_first = list(dict.fromkeys([*close, *known]))  # without repetitions
        raise ConfigError(
            f"layer {layer!r} is unknown. Known: {listed(closest_first, limit=MAX_LAYERS_SHOWN)}.\n"
            f"  named_modules() lists all of them."
        )


def _column(values: Sequence[float]) -> Tensor:
    values_C = torch.tensor(values, dtype=torch.float32)
    return values_C[:, None, None]


class _ReachedError(Exception):
    """Raised by a hook to end a forward pass early, for which torch has no other means."""


def _hook(
    layer: str,
    reader: Callable[[Tensor], Tensor],
    found: dict[str, Tensor],
    *,
    is_tap: bool,
    of: int,
) -> Callable[[nn.Module, object, object], None]:
    """Return a hook that stores the reading of a layer's first output in `found`.

    It ends the pass when the readings of all `of` layers are stored.
    """

    def read(_module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise ConfigError(f"layer {layer!r} returns a {kind}, not a tensor.")
        if layer not in found:
            # A tap's own ReLU runs after the max-pool, or in place: see `conv_block`.
            if is_tap:
                output = output.relu()
            found[layer] = reader(output)
        if len(found) == of:
            raise _ReachedError

    return read


def _as_it_is(output: Tensor) -> Tensor:
    return output
