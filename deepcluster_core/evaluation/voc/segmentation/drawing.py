"""A picture of masks: pictures, their true masks, and the masks that networks predict.

Suffixes: H rows, W columns, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deepcluster_core.data.decode import Pixels
from deepcluster_core.evaluation.mosaic import captioned, framed, grid, in_colour
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
        numbers: list[int] = np.unique(row.truth_HW).tolist()
        present = [classes[number] for number in numbers if number not in (0, VOID)]
        columns = {
            row.name: in_colour(row.picture_HWC),
            ", ".join(present) or classes[0]: PALETTE[row.truth_HW],
            **{network: PALETTE[mask_HW] for network, mask_HW in row.found.items()},
        }
        tiles += [captioned(framed(_scaled(tile)), text) for text, tile in columns.items()]
    return grid(tiles, columns=len(tiles) // len(rows), gap_px=GAP_PX)


def _scaled(picture_HWC: Pixels) -> Pixels:
    """Return a picture with a longer side of TILE_PX, without mixing colours."""
    height, width, _ = picture_HWC.shape
    factor = TILE_PX / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(picture_HWC).resize(size, Image.Resampling.NEAREST))
