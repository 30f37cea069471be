"""Small images artifacts, written as the index stage writes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.file_names import INDEX
from deepcluster_core.artifacts.images_writer import ImagesWriter, PackedImage
from deepcluster_core.artifacts.manifest import Stage
from deepcluster_core.artifacts.packing import Encoding, Packing
from deepcluster_core.context import Context
from deepcluster_core.data.grey import grey_weights
from deepcluster_core.models.config import IMAGENET_STD
from tests.support.artifacts import reseal

Pixels = NDArray[np.uint8]


STAGE = Stage(name="index", version=1, kind="images", files=())


def pictures(num: int, *, channels: int = 3) -> list[Pixels]:
    """Draw gradients of different sizes; the first pixel of picture i is i."""
    drawn: list[Pixels] = []
    for number in range(num):
        height, width = 8 + number % 3, 8 + number % 5
        ramp_HW = np.add.outer(4 * np.arange(height), 6 * np.arange(width)) + number
        drawn.append(np.repeat(ramp_HW[..., None], channels, axis=2).astype(np.uint8))
    return drawn


def pack(
    folder: Path,
    arrays: list[Pixels],
    encoding: Encoding,
    *,
    labels: Sequence[str | None] | None = None,
    originals: Path | None = None,
    has_copies: bool = False,
) -> Path:
    """Write an images artifact as the index stage does."""
    weights = grey_weights(IMAGENET_STD) if encoding == "grey" else None
    packing = Packing(encoding, 95, weights, has_copies)
    with new_artifact(STAGE, folder, config={}, inputs={}, context=Context(seed=1)) as draft:
        packs = encoding != "none"
        with ImagesWriter(folder, packs=packs, has_colour_copies=has_copies) as writer:
            for number, pixels_HWC in enumerate(arrays):
                height, width = pixels_HWC.shape[:2]
                writer.add(
                    PackedImage(
                        path=f"{number}.png",
                        label=labels[number] if labels else None,
                        width=width * 2,
                        height=height * 2,
                        format="PNG",
                        packed_height=height,
                        packed_width=width,
                        packed=packing.stored(pixels_HWC),
                        colour_copy=packing.colour_copy(pixels_HWC),
                    )
                )
        draft.rows = writer.num_images
        draft.facts = {
            "encoding": encoding,
            "channels": arrays[0].shape[2],
            "shorter_side": 8,
            "deep": "range",
            "originals": str(originals),
        }
        if encoding == "grey":
            draft.facts |= {"grey_weights": weights, "colour_copies": has_copies}
    return folder


def shuffle_index(folder: Path) -> None:
    table = pq.read_table(folder / INDEX)
    pq.write_table(table.take(np.random.default_rng(1).permutation(len(table))), folder / INDEX)
    reseal(folder)
