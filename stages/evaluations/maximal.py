"""Maximal: network, images -> what excites its filters most (figures 4 and 5).

For some filters of each layer it writes an image that is learnt to excite the filter, and the nine
images of the run that excite it most.
Suffixes: F filters of a layer, K images kept, S side, C channels, B batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from deepcluster_core import seeding
from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.images import Images, ShownImages
from deepcluster_core.artifacts.tables import read_index, write_frame
from deepcluster_core.config import Precision, StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.filters.activation_maps import (
    chosen_filters,
    depth,
    layers_to_read,
    num_filters,
)
from deepcluster_core.evaluation.filters.ascent import (
    Ascent,
    Learnt,
    Start,
    iterations_for,
    learn_images,
    passes,
)
from deepcluster_core.evaluation.filters.strongest_images import Batch, strongest_images
from deepcluster_core.evaluation.mosaic import Pixels, captioned, fitted, grid
from deepcluster_core.features import to_device
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.models.network import Network
from deepcluster_core.precision import computed_in
from deepcluster_core.stage import stage
from stages.evaluations.declaration import Evaluation
from stages.evaluations.shared.central_views import CentralViews
from stages.evaluations.shared.progress import ProgressCounter
from stages.evaluations.shared.resize import resize_for
from stages.evaluations.shared.results import RESULTS, Row, write_results

STRONGEST = "images.parquet"
PICTURES = "layers"

KEEP = 9  # images shown for a filter, as in figures 4 and 5
TILE_PX = 74
LEARNT_PX = 3 * TILE_PX + 2  # 224, the height of three tiles with one pixel between them
COLUMNS, GAP_PX = 4, 14

Length = Annotated[FiniteFloat, Field(gt=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]


class MaximalConfig(StrictConfig):
    """The protocol of maximal: which filters to show, and how images are learnt and searched."""

    layers: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)]
    """Layers to show. auto: every convolution with a short name, which for AlexNet is conv1 to
    conv5. Names may also be those of any other module whose output is a map."""

    filters: PositiveInt | Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    """Number of filters of each layer, spread evenly over it; or a list of filter numbers."""

    start_mean: FiniteFloat
    """Mean of the noise from which an image starts, on a scale of 0 to 255."""

    start_std: Amount
    """Standard deviation of this noise, on a scale of 0 to 255."""

    steps: tuple[Length, Length]
    """Length of a step at the first and at the last convolution of the network: the L2 norm over
    all values of an image on a scale of 0 to 255. Layers between them are interpolated
    geometrically, by the number of convolutions before the layer."""

    iterations: PositiveInt | Literal["auto"]
    """Steps in every layer. auto: 90,000 / step · image_size / 224 · sqrt(channels / 3). For colour
    images of 224 px, these are the 30,000 steps of 3 or the 3,000 steps of 30 of figure 4; at other
    sizes, all steps together move a value of the image equally far."""

    l2: Amount
    """Penalty on the sum of squares of the image as the network normalises it."""

    blur_sigma: Amount
    """Standard deviation of the Gaussian that smooths the image at intervals, pixels; 0 turns it
    off."""

    blur_every: PositiveInt
    """Steps between two blurs."""

    subset: PositiveInt | None
    """Size of the random subset of images to search, drawn by the run's seed and so identical in
    every epoch. null: search all images."""

    resize: PositiveInt | Literal["auto"]
    """Length to which the shorter side is resized before the central crop of network.image_size,
    pixels. auto: 256/224 of that size, as in the paper; for sizes up to 64 px that size itself, so
    that nothing is cut away."""

    batch_size: PositiveInt
    """Images in a forward pass."""

    precision: Precision
    """Number format of the pass over the images. Images are always learnt in float32."""

    def ascent_at(self, depth: float, *, channels: int, size: int) -> Ascent:
        """Return the gradient ascent at a layer.

        Args:
            depth: position of the layer in the network, 0 to 1, see `activation_maps.depth`.
            channels: channels of the learnt image.
            size: side of the learnt image, pixels.
        """
        first, last = self.steps
        # Interpolate the length of a step geometrically.
        step = first * (last / first) ** depth
        iterations = self.iterations
        if iterations == "auto":
            iterations = iterations_for(step, channels=channels, size=size)
        return Ascent(
            step=step,
            iterations=iterations,
            l2=self.l2,
            blur_sigma=self.blur_sigma,
            blur_every=self.blur_every,
        )


@dataclass(frozen=True)
class _Layer:
    """The filters of a layer that are shown, and the gradient ascent of their images."""

    name: str
    filters: list[int]
    ascent: Ascent


@dataclass(frozen=True)
class _Filter:
    """The learnt image of a filter, and the run's images that excite it most."""

    layer: str
    number: int
    learnt: Learnt
    image_id_K: NDArray[np.int64]
    activation_K: NDArray[np.float32]


@stage(name="maximal", version=1, kind="evaluations/maximal", files=(RESULTS, STRONGEST, PICTURES))
def maximal(
    draft: Draft,
    network: NetworkConfig,
    protocol: MaximalConfig,
    /,
    *,
    images: Path,
    checkpoint: Path | None,
) -> None:
    """Write a row and a picture of each filter, and a row for each image that excites it most.

    For each image, memory holds only its path, and another 16 bytes if a subset is drawn.
    """
    context = draft.context
    pictures = Images(images)
    model = restore_network(
        network, channels=pictures.channels, seed=context.seed, checkpoint=checkpoint
    ).eval()
    to_device(model, context.device)
    # Learning an image takes thousands of steps, which are faster without separate normalisation.
    fold_batch_norm(model)
    # Check all settings before the long work begins.
    layers = _layers(model, protocol, size=network.image_size)
    searched = _images_to_search(pictures, protocol, network, context, layers)
    # Search the run's images and learn an image for each filter.
    filters = list(_filters(model, layers, protocol, searched, context))
    _draw(draft.folder / PICTURES, filters, searched)
    write_frame(draft.folder / STRONGEST, _strongest(filters, images))
    draft.facts["precision"] = computed_in(context.device, protocol.precision)
    draft.facts["iterations"] = {layer.name: layer.ascent.iterations for layer in layers}
    captions: dict[str, str] = {}
    for layer in layers:
        file = f"{PICTURES}/{layer.name}.png"
        captions[file] = f"Images that the channels of layer {layer.name} respond to most"
    write_results(draft, [_row(found) for found in filters], protocol, captions)


def _layers(model: Network, protocol: MaximalConfig, *, size: int) -> list[_Layer]:
    """Return the layers to show, after checking that they and their filters exist.

    Raises:
        ConfigError: the network does not have a layer, or the layer does not have a filter.
    """
    requested = None if protocol.layers == "auto" else protocol.layers
    channels = len(model.mean_C11)
    layers: list[_Layer] = []
    for name in layers_to_read(model, requested):
        total = num_filters(model, name, size=size)
        filters = chosen_filters(protocol.filters, of=total, layer=name)
        ascent = protocol.ascent_at(depth(model, name), channels=channels, size=size)
        layers.append(_Layer(name, filters, ascent))
    return layers


@dataclass(frozen=True)
class _Searched:
    """The images that are searched for those that excite a filter most."""

    images: Images
    shown: ShownImages
    """The same images, for people to look at."""
    image_id_N: range | NDArray[np.int64]
    views: CentralViews

    def batches(self) -> Iterator[Batch]:
        """Yield the image_ids and the views of each batch, in order."""
        return self.views.batches(self.images, self.image_id_N)

    def view(self, image_id: int) -> Pixels:
        """Return the view of an image that the network reads, (S, S, C), in colour if possible."""
        return self.views.view(self.shown, image_id)


def _images_to_search(
    images: Images,
    protocol: MaximalConfig,
    network: NetworkConfig,
    context: Context,
    layers: Sequence[_Layer],
) -> _Searched:
    """Return the images to search. Progress counts these images and the steps of gradient ascent.

    Raises:
        ConfigError: `protocol` asks for more images than the run has, or for crops that do not fit.
    """
    resize = resize_for(network.image_size, protocol.resize, only_centre=True)
    image_id_N = _subset(len(images), protocol.subset, seed=context.seed)
    num_steps = 0
    for layer in layers:
        # The images of a layer's filters are learnt together, in one or several passes.
        num_steps += layer.ascent.iterations * passes(len(layer.filters))
    counter = ProgressCounter(context, len(image_id_N) + num_steps)
    views = CentralViews(resize, network, protocol.batch_size, context, counter)
    return _Searched(images, ShownImages(images.folder), image_id_N, views)


def _subset(total: int, wanted: int | None, *, seed: int) -> range | NDArray[np.int64]:
    """Return the image_ids to search, in increasing order.

    Raises:
        ConfigError: `wanted` exceeds the number of images.
    """
    if wanted is None:
        return range(total)
    if wanted > total:
        raise ConfigError(
            f"subset: {wanted} images asked for, but the run has {total}.\n"
            f"  Fix: --set subset=null searches all of them."
        )
    generator = seeding.numpy_generator(seed, "maximal", "subset")
    drawn = generator.choice(total, wanted, replace=False)
    return np.sort(drawn)


def _filters(
    model: Network,
    layers: Sequence[_Layer],
    protocol: MaximalConfig,
    searched: _Searched,
    context: Context,
) -> Iterator[_Filter]:
    """Search the images once for all filters; yield each filter with the image learnt for it."""
    # One pass over the images serves the filters of all layers.
    strongest = strongest_images(
        model,
        searched.batches(),
        {layer.name: layer.filters for layer in layers},
        keep=KEEP,
        device=context.device,
        precision=protocol.precision,
    )
    # Then learn the images, layer by layer, each starting from noise.
    start = Start(protocol.start_mean, protocol.start_std, seed=context.seed)
    for layer in layers:
        learnt_images = learn_images(
            model,
            layer.name,
            layer.filters,
            ascent=layer.ascent,
            start=start,
            size=searched.views.size,
            stepped=searched.views.counter.advance,
        )
        found = strongest[layer.name]
        numbered = enumerate(zip(layer.filters, learnt_images, strict=True))
        for row, (number, learnt) in numbered:
            yield _Filter(
                layer.name, number, learnt, found.image_id_FK[row], found.activation_FK[row]
            )


def _draw(folder: Path, filters: Sequence[_Filter], searched: _Searched) -> None:
    """Draw a picture of each layer: for each filter the learnt image and the run's best nine."""
    folder.mkdir()
    # The filters of a layer are neighbours, as `groupby` requires.
    for layer, filters_of_layer in groupby(filters, key=attrgetter("layer")):
        tiles: list[Pixels] = []
        for found in filters_of_layer:
            tiles.append(captioned(_tile(found, searched), f"filter {found.number}"))
        picture_HWC = grid(tiles, columns=COLUMNS, gap_px=GAP_PX)
        Image.fromarray(picture_HWC).save(folder / f"{layer}.png")


def _tile(found: _Filter, searched: _Searched) -> Pixels:
    """Draw the learnt image of a filter beside the images that excite it most, three in a row."""
    best = [fitted(searched.view(image_id), TILE_PX) for image_id in found.image_id_K.tolist()]
    best_HWC = grid(best, columns=3, gap_px=1)
    learnt_HWC = fitted(found.learnt.image_SSC, LEARNT_PX)
    return grid([learnt_HWC, best_HWC], columns=2, gap_px=3)


def _strongest(filters: Sequence[_Filter], images: Path) -> pd.DataFrame:
    """Return a row for each layer, filter and rank, in this order; rank 1 is the strongest."""
    ids = {image_id for found in filters for image_id in found.image_id_K.tolist()}
    shown = read_index(images, ["path"], sorted(ids))
    path_of_image = {image["image_id"]: image["path"] for image in shown}
    rows: list[Row] = []
    for found in filters:
        activations = found.activation_K.tolist()
        for position, image_id in enumerate(found.image_id_K.tolist()):
            row: Row = {
                "layer": found.layer,
                "filter": found.number,
                "rank": position + 1,
                "image_id": image_id,
                "path": path_of_image[image_id],
                "activation": activations[position],
            }
            rows.append(row)
    return pd.DataFrame(rows)


def _row(found: _Filter) -> Row:
    """Return a filter's responses to the noise, to the image learnt from it and to the best image.

    The best image is the one of the run that excites the filter most.
    """
    return {
        "layer": found.layer,
        "filter": found.number,
        "start_activation": found.learnt.start_activation,
        "activation": found.learnt.activation,
        "start_log_probability": found.learnt.start_log_probability,
        "log_probability": found.learnt.log_probability,
        "image_id": int(found.image_id_K[0]),
        "image_activation": float(found.activation_K[0]),
    }


EVALUATION = Evaluation(
    maximal,
    about="What a filter responds to most, figures 4 and 5",
    data="images",
)
