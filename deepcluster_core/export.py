"""Export a network to files that other programs can run without this package.

Suffixes: N images, C channels, S pixels of a side, D values of a feature.
"""

import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.models.config import PROJECTION
from deepcluster_core.models.network import Network
from deepcluster_core.precision import exact_float32

METADATA = "deepcluster"
"""Metadata key, or stem of the extra file, under which the JSON about the network is stored."""
EXTRA_FILE = f"{METADATA}.json"
INPUT, OUTPUT, BATCH = "images", "feature", "N"
BACKBONE = "backbone."
ONNX_PACKAGES = ("onnx", "onnxscript")
ONNX_BYTES = 2 << 30
"""Limit on the weights in one ONNX file: 2 GiB, the largest size of a protobuf message."""
TOLERANCE = 1e-4
"""Largest allowed difference between the features of the exported graph and of the network.

Relative to the largest absolute feature value. Rounding alone was measured at 1e-6.
"""


class Portable(nn.Module):
    """A network in eval mode that every exporter can trace.

    It maps float32 images (N, C, S, S) from 0 to 1 to features (N, D), for any N, and computes the
    function of `Network.feature` or `Network.layer_feature`. Those cannot be exported: the Sobel
    filter of `Network` splits a batch to fit a cache, and its layers are read by hooks.
    """

    def __init__(self, network: Network, layer: str | None) -> None:
        """Share the weights of `network`.

        Args:
            network: a network of this package or of torchvision.
            layer: a key of `network.taps` or the name of one of its modules, whose output is
                averaged over space; `projection` for its embeddings; None for its feature.

        Raises:
            ConfigError: the layer is not in the backbone, or cannot be cut out of it.
        """
        super().__init__()
        self.mean_C11 = nn.Buffer(network.mean_C11.clone())
        self.std_C11 = nn.Buffer(network.std_C11.clone())
        self.sobel_2133 = nn.Buffer(_sobel()) if network.sobel is not None else None
        self.layer = layer
        self.is_tap = layer in network.taps
        if layer == PROJECTION and network.projection is not None:
            self.layer = None  # the output is the embedding itself
            self.backbone = _with_projection(network, network.projection)
        else:
            self.backbone = network.backbone if layer is None else _cut(network, layer)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return feature_ND."""
        inputs = (images - self.mean_C11) / self.std_C11
        if self.sobel_2133 is not None:
            grey_N1SS = inputs.mean(dim=1, keepdim=True)
            inputs = nn.functional.conv2d(grey_N1SS, self.sobel_2133, padding=1)
        if self.layer is None:
            feature_ND: Tensor = self.backbone(inputs)
            return feature_ND
        output: Tensor = self.backbone(inputs)[self.layer]
        if self.is_tap:
            output = output.relu()
        if output.ndim == 4:  # feature maps of a convolution
            return output.mean(dim=(2, 3))
        if output.ndim == 3:  # tokens of a transformer
            return output.mean(dim=1)
        return output.flatten(start_dim=1)


def _sobel() -> Tensor:
    """Return the two filters of `Sobel` as weights of a convolution."""
    smooth_3 = torch.tensor([1.0, 2.0, 1.0])
    difference_3 = torch.tensor([1.0, 0.0, -1.0])
    horizontal_33 = torch.outer(smooth_3, difference_3)
    vertical_33 = torch.outer(difference_3, smooth_3)
    filters_233 = torch.stack((horizontal_33, vertical_33))
    return filters_233[:, None]


def _with_projection(network: Network, projection: nn.Module) -> nn.Module:
    """Return backbone and projection as one module, whose weights have the network's own names."""
    return nn.Sequential(
        OrderedDict(backbone=network.backbone, last_relu=network.last_relu, projection=projection)
    )


def _cut(network: Network, layer: str) -> nn.Module:
    """Return the backbone up to a layer, as a module that returns {layer: output}."""
    name = network.taps.get(layer, layer)
    try:
        if not name.startswith(BACKBONE):
            raise ValueError("it is not part of the backbone")
        name_in_backbone = name.removeprefix(BACKBONE)
        return create_feature_extractor(network.backbone, {name_in_backbone: layer})
    except Exception as error:  # torch.fx runs arbitrary code, which can raise anything
        raise ConfigError(
            f"layer {layer!r} cannot be cut out for export.\n"
            f"  Cause: {first_line(error)}\n"
            f"  Fix:   leave --layer out, or choose a different one."
        ) from error


def write_safetensors(path: Path, network: Portable, metadata: str, _size: int) -> None:
    """Write the backbone's weights under their own names; with a projection, also its weights.

    To use the file, build the backbone in code and load these weights into it.
    """
    weights: dict[str, Tensor] = {}
    for name, weight in network.backbone.state_dict().items():
        weights[name] = weight.detach().contiguous()  # safetensors stores row-major tensors only
    encoded = save(weights, metadata={"format": "pt", METADATA: metadata})
    path.write_bytes(encoded)


def write_torchscript(path: Path, network: Portable, metadata: str, size: int) -> None:
    """Write a TorchScript archive, to be read by `torch.jit.load`."""
    buffer = BytesIO()
    with _quiet():
        # Skip torch's own check: it compares graphs, which differ harmlessly for transformers.
        traced = torch.jit.trace(network, _example(network, size), check_trace=False)
        assert isinstance(traced, torch.jit.ScriptModule)
        _check(traced, network, size, "torchscript")
        torch.jit.save(traced, buffer, _extra_files={EXTRA_FILE: metadata.encode()})
    path.write_bytes(buffer.getbuffer())


def write_torch_export(path: Path, network: Portable, metadata: str, size: int) -> None:
    """Write an exported program, to be read by `torch.export.load(…).module()`."""
    program = _program(network, size)
    buffer = BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={EXTRA_FILE: metadata})
    path.write_bytes(buffer.getbuffer())


def write_onnx(path: Path, network: Portable, metadata: str, size: int) -> None:
    """Write an ONNX model in one file."""
    missing = [package for package in ONNX_PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--format onnx needs the packages {' and '.join(ONNX_PACKAGES)}; not installed: "
            f"{' and '.join(missing)}.\n  Fix: pip install {' '.join(ONNX_PACKAGES)}"
        )
    # Checked before the export, which would fail only after it has built the whole model.
    num_bytes = sum(weight.nbytes for weight in network.state_dict().values())
    if num_bytes >= ONNX_BYTES:
        raise ConfigError(
            f"--format onnx: {num_bytes:,} bytes of weights do not fit into one ONNX file.\n"
            f"  Fix: use --format torch-export, or torchscript."
        )
    with _quiet():
        model = torch.onnx.export(
            _program(network, size),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: BATCH}},
            dynamo=True,
            verbose=False,
        )
    assert model is not None
    model.model.metadata_props[METADATA] = metadata
    model.save(path, external_data=False)


Writer = Callable[[Path, Portable, str, int], None]
WRITERS: Mapping[str, tuple[str, Writer]] = {
    "safetensors": (".safetensors", write_safetensors),
    "torchscript": (".pt", write_torchscript),
    "onnx": (".onnx", write_onnx),
    "torch-export": (".pt2", write_torch_export),
}
"""For each format, the suffix of its files and the function that writes one."""


@exact_float32()
def write_network(
    path: Path, network: Portable, *, format: str, metadata: Mapping[str, Any], size: int
) -> None:
    """Write a network to a file.

    Files are built in memory first, because torch's own writers end the process on a full disk.

    Args:
        path: path of the file.
        network: the network, on the CPU.
        format: a key of `WRITERS`.
        metadata: plain values, stored in the file as JSON text.
        size: side of the input images in pixels.

    Raises:
        ConfigError: a package is missing, or the format cannot hold this network.
        OSError: the file cannot be written.
    """
    _, write = WRITERS[format]
    write(path, network, json.dumps(metadata), size)


def _program(network: Portable, size: int) -> torch.export.ExportedProgram:
    # The number of images stays free; all other dimensions are fixed.
    free_batch = {0: torch.export.Dim(BATCH, min=1)}
    with _quiet():
        try:
            example = (_example(network, size),)
            program = torch.export.export(network, example, dynamic_shapes={INPUT: free_batch})
        except Exception as error:  # torch.export raises many classes
            raise _cannot("torch-export and onnx", first_line(error)) from error
        _check(program.module(), network, size, "torch-export and onnx")
    return program


def _check(graph: Callable[[Tensor], Tensor], network: Portable, size: int, format: str) -> None:
    """Raise ConfigError if the exported graph and the network compute different features.

    The check uses a different number of images than the export, which catches graphs that only
    work for the batch size they were traced with.
    """
    images = _example(network, size, count=3)
    with torch.no_grad():
        expected_ND = network(images)
        exported_ND = graph(images)
    difference = float((exported_ND - expected_ND).abs().max())
    largest = float(expected_ND.abs().max())
    # Written with "not", so that NaN fails the check too.
    if not difference <= TOLERANCE * largest:
        raise _cannot(format, f"features differ by {difference:g}")


def _cannot(format: str, cause: str) -> ConfigError:
    """Return the error for a network that a format cannot hold."""
    return ConfigError(
        f"--format {format}: this network cannot be written in this format.\n"
        f"  Cause: {cause}\n"
        f"  Fix:   use --format safetensors, or a different one."
    )


def _example(network: Portable, size: int, count: int = 2) -> Tensor:
    """Return a fixed batch of images whose values cover 0 to 1."""
    shape = torch.Size((count, len(network.mean_C11), size, size))
    return torch.linspace(0, 1, shape.numel()).reshape(shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of the exporters that are harmless here.

    They report that TorchScript is deprecated, and that traced branches become constant.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        tracer: type[Warning] = torch.jit.TracerWarning  # pyright: ignore[reportPrivateImportUsage]
        warnings.filterwarnings("ignore", category=tracer)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
