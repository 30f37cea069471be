"""Export the network of a run to a file that other programs can use without this one."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcluster_core.artifacts.outputs import whole_files
from deepcluster_core.errors import ConfigError
from deepcluster_core.export import INPUT, OUTPUT, WRITERS, Portable, write_network
from deepcluster_core.export_timm import check_in_timm, write_timm_folder
from deepcluster_core.suggestions import did_you_mean
from deepcluster_core.text import printable, readable_size
from stages.runs.past_run import PastRun
from stages.runs.recipe import Recipe

SUFFIXES = {name: suffix for name, (suffix, _) in WRITERS.items()}
"""The suffix of the file of each format; `timm` is a folder, whose name may be any."""
TIMM = "timm"


def export(
    run: str, *, format: str, out: Path, epoch: int | None = None, layer: str | None = None
) -> None:
    """Write the network of an epoch, which computes features from images (N, C, S, S).

    The images are float32 in the range 0 to 1. The normalisation, and the Sobel filter if the run
    has one, are part of the graph. The metadata of the file describe how a picture becomes such an
    image, and where the network comes from.

    Args:
        run: folder of the run, or its name under `runs/`.
        format: `safetensors` for the weights alone; `torchscript`, `onnx` or `torch-export`; or
            `timm` for a folder that timm loads, with the backbone's weights.
        out: the file to write, with the suffix of the format; for `timm`, the folder.
        epoch: epoch after whose training the network is used; the last one if left out.
        layer: a named layer, such as conv5, averaged over space; the feature that the run clusters
            if left out, or the backbone's where the run clusters its projection.

    Raises:
        ConfigError: the run, epoch, layer or format does not exist, `out` has the wrong suffix, a
            package is missing, or the format cannot hold this network.
        ArtifactError: the checkpoint is missing, or `out` exists.
    """
    # Check everything before the file is begun.
    formats = (*SUFFIXES, TIMM)
    if format not in formats:
        raise ConfigError(
            f"unknown --format {format}; choose from {', '.join(formats)}"
            f"{did_you_mean(format, formats) or '.'}"
        )
    past = PastRun.open(run)
    epoch, checkpoint = past.trained(epoch)
    past.check_out(out, (SUFFIXES.get(format, out.suffix),))
    recipe = past.recipe
    channels, size = recipe.dataset.channels, recipe.network.image_size
    shape = f"(N, {channels}, {size}, {size})"
    state = "the network as it begins" if checkpoint is None else f"the network after epoch {epoch}"
    if format == TIMM:
        dim = _export_to_timm(past, out, checkpoint, layer)
        _say(f"{out}: a folder for timm, {state}, from images {shape} to features (N, {dim})")
        return
    layer = past.exported_layer(layer)
    dim = past.dim(layer)
    # The metadata explain the file to somebody who has only the file.
    with whole_files(out) as (part,):
        network = Portable(past.network(checkpoint), layer)
        metadata = {
            **preprocessing(past.recipe, network),
            "input": {"name": INPUT, "dtype": "float32", "range": [0, 1]},
            "output": {"name": OUTPUT, "dtype": "float32", "dim": dim, "layer": layer},
            "architecture": repr(network.backbone),
            "torch": str(torch.__version__),
            **past.about(checkpoint=checkpoint),
        }
        write_network(part, network, format=format, metadata=metadata, size=size)
    file_size = readable_size(out.stat().st_size)
    _say(f"{out}: {file_size}, {state}, from images {shape} to features (N, {dim})")


def _export_to_timm(past: PastRun, out: Path, checkpoint: Path | None, layer: str | None) -> int:
    """Write the backbone to a folder that timm loads; return the width of its feature."""
    network, size = past.recipe.network, past.recipe.network.image_size
    check_in_timm(network.name, sobel=network.sobel)
    if layer is not None:
        raise ConfigError(
            f"--layer {layer}: --format timm holds the whole network.\n"
            f"  Fix: leave --layer out, or use another format for the feature of a layer."
        )
    restored = past.network(checkpoint)
    with whole_files(out) as (part,):
        write_timm_folder(
            part,
            restored,
            name=network.name,
            size=size,
            resize=past.recipe.extract.resize,
            metadata=past.about(checkpoint=checkpoint),
        )
    return restored.feature_dim


def _say(text: str) -> None:
    print(printable(text))  # noqa: T201


def preprocessing(recipe: Recipe, network: Portable) -> dict[str, Any]:
    """Return how a picture becomes the image that the network reads, in numbers and in words.

    The JPEG compression of packed images, which changes pixels a little, is left out.
    """
    channels, shorter_side = recipe.dataset.channels, recipe.dataset.shorter_side
    size, resize = recipe.network.image_size, recipe.extract.resize
    # Pillow opens grey and colour pictures; pictures of more channels are arrays.
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode:
        first_step = (
            f"open upright (EXIF orientation), transparency on white, as Pillow's mode {mode}"
        )
    else:
        first_step = f"an array (H, W, {channels}) of uint8"
    packing = "keep the size"
    if shorter_side:
        packing = (
            f"resize, the shorter side to {shorter_side}, the longer one to "
            f"longer * {shorter_side} // shorter; Pillow's BILINEAR"
        )
    steps = [
        first_step,
        packing,
        f"crop the central square: side = round(shorter * {size} / {resize}), "
        f"left = round((width - side) / 2), top = round((height - side) / 2)",
        f"resize the crop to {size} x {size}; Pillow's BILINEAR",
        "divide by 255, float32, channels before rows and columns",
        "in the runnable formats a part of the graph: (images - mean) / std by channel",
    ]
    if recipe.network.sobel:
        steps.append(
            "also: the mean of the channels, padded by one zero, cross-correlated with "
            "[[1, 0, -1], [2, 0, -2], [1, 0, -1]] and [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]"
        )
    return {
        "channels": channels,
        "shorter_side": shorter_side,
        "resize": resize,
        "image_size": size,
        "mean": _plain(network.mean_C11),
        "std": _plain(network.std_C11),
        "sobel": recipe.network.sobel,
        "steps": steps,
    }


def _plain(column_C11: torch.Tensor) -> list[float]:
    """Return the values as float, rounded to the digits that float32 holds."""
    return [float(str(np.float32(value))) for value in column_C11.flatten().tolist()]
