"""A picture of masks: pictures, their true masks, and the masks that networks predict.

Suffixes: H rows, W columns, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deepcluster_core.data.decode import Pixels
from deepcluster_core.evaluation.mosaic import captioned, framed, grid, in_colour, scaled_size
from deepcluster_core.evaluation.voc.dataset import PALETTE, VOID
from deepcluster_core.evaluation.voc.segmentation.fcn import Mask

TILE_PX = 240
GAP_PX = 6


@dataclass(frozen=True)
class Shown:
    """One row of the picture."""

    name: str
    picture_HWC: Pixels
    truth_HW: Mask
    found: Mapping[str, Mask]
    """Predicted masks by the name of the network, in the order of the columns."""


def draw_masks(rows: Sequence[Shown], classes: Sequence[str]) -> Pixels:
    """Draw one picture (H, W, 3) with a row for each of `rows` and masks in VOC's colours.

    Its columns are the picture, the true mask with the names of its classes, and the mask of each
    network.
    """
    tiles: list[Pixels] = []
    for row in rows:
        tiles.append(_tile(in_colour(row.picture_HWC), row.name))
        # A mask of nothing but background is labelled as such.
        class_names = _names_in(row.truth_HW, classes) or classes[0]
        tiles.append(_tile(PALETTE[row.truth_HW], class_names))
        for network, mask_HW in row.found.items():
            tiles.append(_tile(PALETTE[mask_HW], network))
    columns = len(tiles) // len(rows)
    return grid(tiles, columns=columns, gap_px=GAP_PX)


def _names_in(mask_HW: Mask, classes: Sequence[str]) -> str:
    """Return the names of the classes in a mask, without the background."""
    numbers: list[int] = np.unique(mask_HW).tolist()
    names: list[str] = []
    for number in numbers:
        if number not in (0, VOID):
            names.append(classes[number])
    return ", ".join(names)


def _tile(picture_HWC: Pixels, text: str) -> Pixels:
    """Return a picture with a longer side of TILE_PX, without mixing colours, and its caption."""
    picture = Image.fromarray(picture_HWC)
    size = scaled_size(picture.width, picture.height, TILE_PX)
    picture = picture.resize(size, Image.Resampling.NEAREST)
    return captioned(framed(np.asarray(picture)), text)
