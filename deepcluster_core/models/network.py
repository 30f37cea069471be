"""A network as the pipeline sees it: uint8 images in, one feature per image out.

Suffixes: N images, C channels, H rows, W columns, D values of a feature.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.sobel import Sobel
from deepcluster_core.text import listed

MAX_LAYERS_SHOWN = 20


class Window(NamedTuple):
    """An average pooling for maps of one size. Padding is zeros, which count in the mean."""

    map_side: int
    kernel: int
    stride: int
    padding: int


class Halves(NamedTuple):
    """Names of children of a body that is an `nn.Sequential`, where it can be taken apart."""

    maps: str
    """An `nn.Sequential` of convolutions, the last of them with a max-pool."""
    flatten: str
    """The layer between the map and the linear layers, of which there are two."""


@dataclass(frozen=True)
class Backbone:
    """What a builder returns: the layers from filtered images to the feature, and their facts."""

    body: nn.Module
    """Reads float (N, C, H, W), returns the feature (N, `feature_dim`)."""

    feature_dim: int
    """D."""

    relu_missing: bool
    """The body stops before its last ReLU, and training has to put it back."""

    taps: dict[str, str] = field(default_factory=dict[str, str])
    """Short name -> module of `body` whose output, through a ReLU, is the map to probe."""

    windows: Mapping[str, Window] = field(default_factory=dict[str, Window])
    """Short name -> how published linear classifiers pool that map."""

    halves: Halves | None = None
    """None: the body cannot be taken apart into a map and linear layers."""


class Network(nn.Module):
    """Input transform, optional Sobel filter and backbone.

    Reads images as uint8, 0 to 255, or as float, 0 to 1, and converts them on their own device, so
    that batches travel as bytes. Works under autocast and in channels-last memory.
    """

    feature_dim: int
    """D of every feature below."""
    windows: Mapping[str, Window]
    """See `Backbone`."""
    halves: Halves | None
    """See `Backbone`."""

    def __init__(
        self, backbone: Backbone, *, mean: Sequence[float], std: Sequence[float], sobel: bool
    ) -> None:
        """Put the parts together.

        Args:
            backbone: must read as many channels as the filter, or else the images, have.
            mean: one value per channel of the images, on their scale of 0 to 1.
            std: as `mean`, above 0.
            sobel: put the fixed filter between the images and the backbone.
        """
        super().__init__()
        # Not saved: they are the configuration's, and a checkpoint carries only what was learnt.
        self.mean_C11 = nn.Buffer(_column(mean), persistent=False)
        self.std_C11 = nn.Buffer(_column(std), persistent=False)
        self.sobel = Sobel(mean, std) if sobel else None
        self.backbone: nn.Module = backbone.body
        # Not in place: the feature before it belongs to whoever asked for it.
        self.last_relu: nn.Module = nn.ReLU() if backbone.relu_missing else nn.Identity()
        self.feature_dim = backbone.feature_dim
        self.windows = backbone.windows
        self.halves = backbone.halves
        self._taps = {tap: f"backbone.{module}" for tap, module in backbone.taps.items()}

    @property
    def taps(self) -> dict[str, str]:
        """Short name, `conv1`, of each layer to probe -> its name among `named_modules()`.

        By its short name a layer's output is the map after batch normalisation and ReLU and before
        the max-pool; the module itself stops before the ReLU. Empty for torchvision's networks.
        """
        return dict(self._taps)

    def inputs(self, images_NCHW: Tensor) -> Tensor:
        """Return what the backbone reads: the maps of the filter, or the normalised images.

        Any height and width will do.
        """
        num_channels = len(self.mean_C11)
        if images_NCHW.ndim != 4 or images_NCHW.shape[1] != num_channels:
            # Checked here because one channel would silently broadcast to three.
            shape = tuple(images_NCHW.shape)
            raise ValueError(f"images have shape {shape}, expected (N, {num_channels}, H, W)")
        if images_NCHW.dtype != torch.uint8 and not images_NCHW.is_floating_point():
            raise TypeError(f"images are {images_NCHW.dtype}, expected uint8 or float")
        is_bytes = images_NCHW.dtype == torch.uint8
        if self.sobel is not None:  # reads bytes as they are
            return self.sobel(images_NCHW if is_bytes else images_NCHW.to(self.mean_C11.dtype))
        scale_C11 = 1 / (self.std_C11 * 255 if is_bytes else self.std_C11)
        wide_NCHW = images_NCHW.to(self.mean_C11.dtype)
        return torch.addcmul(-self.mean_C11 / self.std_C11, wide_NCHW, scale_C11)

    def feature(self, images_NCHW: Tensor) -> Tensor:
        """Return feature_ND, what is clustered; call it in eval mode.

        It is the output before the last ReLU for the networks of this package, which the authors
        found best, and the input of the dropped classifier for torchvision's.
        """
        feature_ND: Tensor = self.backbone(self.inputs(images_NCHW))
        return feature_ND

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return hidden_ND, what the head reads in training: the feature after its last ReLU."""
        hidden_ND: Tensor = self.last_relu(self.feature(images_NCHW))
        return hidden_ND

    def layer_feature(self, images_NCHW: Tensor, layer: str) -> Tensor:
        """Return feature_ND of any layer: its output, averaged over space.

        Space is rows and columns of (N, C, H, W), and the tokens of (N, tokens, D) as in vision
        transformers. Networks that keep their channels last, torchvision's `swin` family, have
        outputs (N, H, W, C): for them this mean would be a wrong one; use `layer_output`.

        Args:
            images_NCHW: uint8 or float, as everywhere.
            layer: see `layer_output`.

        Raises:
            ConfigError: there is no such layer, or it has no such output.
        """
        output = self.layer_output(images_NCHW, layer)
        if output.ndim == 4:
            return output.mean(dim=(2, 3))
        return output.mean(dim=1) if output.ndim == 3 else output.flatten(start_dim=1)

    def layer_output(self, images_NCHW: Tensor, layer: str) -> Tensor:
        """Return the whole output of any layer, (N, C, H, W) for a convolution.

        The pass ends there: later layers cost nothing, cannot write over the output in place, and
        need not fit the size of the images, so maps of larger images can be had.

        Args:
            images_NCHW: uint8 or float, as everywhere.
            layer: a key of `taps`, or a name of `named_modules()`, also of the backbone's own:
                `layer4`. Of a module that runs several times in one pass, the first output.

        Raises:
            ConfigError: there is no such layer, it does not run, or its output is no tensor.
        """
        return self.read_layers(images_NCHW, {layer: _as_it_is})[layer]

    def read_layers(
        self, images_NCHW: Tensor, readers: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> dict[str, Tensor]:
        """Return, in one pass, what is read from the whole outputs of several layers.

        The pass ends at the last of them.

        Args:
            images_NCHW: uint8 or float, as everywhere.
            readers: by layer as in `layer_output`, what to make of its output. Each is called when
                the layer has run, so that the maps of all layers never lie in memory together,
                and returns a tensor of its own: later layers may write over the output in place.

        Raises:
            ConfigError: as `layer_output`.
        """
        found: dict[str, Tensor] = {}
        hooks: list[RemovableHandle] = []
        try:
            for layer, reader in readers.items():
                module = self.get_submodule(self.module_name(layer))
                hook = _hook(layer, reader, found, is_tap=layer in self._taps, of=len(readers))
                hooks.append(module.register_forward_hook(hook))
            self(images_NCHW)
        except _ReachedError:
            return {layer: found[layer] for layer in readers}
        finally:
            for hook in hooks:
                hook.remove()
        absent = next(layer for layer in readers if layer not in found)
        raise ConfigError(f"layer {absent!r} takes no part in the forward pass of this network.")

    def module_name(self, layer: str) -> str:
        """Return the name of a layer, see `layer_output`, among `named_modules()`.

        Raises:
            ConfigError: there is no such layer.
        """
        known, name = dict(self.named_modules()), self._taps.get(layer, layer)
        for found in (name, f"backbone.{name}"):
            if name and found in known:
                return found
        self._refuse_layer(layer)

    def _refuse_layer(self, layer: str) -> NoReturn:
        by_depth = sorted((n for n, _ in self.named_modules() if n), key=lambda n: n.count("."))
        known = [*self._taps, *by_depth]
        close = difflib.get_close_matches(layer, known, n=MAX_LAYERS_SHOWN)
        closest_first = list(dict.fromkeys([*close, *known]))
        raise ConfigError(
            f"layer {layer!r} is unknown. Known: {listed(closest_first, limit=MAX_LAYERS_SHOWN)}.\n"
            f"  named_modules() lists all of them."
        )


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


class _ReachedError(Exception):  # an exception is the only way out of the middle of a forward pass
    pass


def _hook(
    layer: str,
    reader: Callable[[Tensor], Tensor],
    found: dict[str, Tensor],
    *,
    is_tap: bool,
    of: int,
) -> Callable[[nn.Module, object, object], None]:
    """Return what puts the reading of a layer's first output into `found`, and ends a full pass."""

    def read(_module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise ConfigError(f"layer {layer!r} returns a {kind}, not a tensor.")
        if layer not in found:
            # A tap's own ReLU runs after the max-pool, or in place: see `conv_block`.
            found[layer] = reader(output.relu() if is_tap else output)
        if len(found) == of:
            raise _ReachedError

    return read


def _as_it_is(output: Tensor) -> Tensor:
    return output
