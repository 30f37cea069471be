"""The images that excite a filter most (figures 4 and 5), found in one pass over all images.

Suffixes: B images of a batch, S side of a view, C channels, F filters of a layer, X filters of all
layers together, K images kept for each filter.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.config import Precision
from deepcluster_core.evaluation.filters.activation_maps import mean_activation
from deepcluster_core.features import ViewBatch, to_images
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast

Batch = tuple[NDArray[np.int64], ViewBatch]
"""The id_B of a batch's images, and their views."""


@dataclass(frozen=True)
class Strongest:
    """The images that excite the filters of a layer most, the strongest first."""

    image_id_FK: NDArray[np.int64]
    activation_FK: NDArray[np.float32]


class Leaders:
    """The K greatest values of each column of a table whose rows arrive in batches.

    Memory holds K + B rows, regardless of the number of batches. Ties go to the earlier row, so the
    result does not depend on the batch size.
    """

    def __init__(self, keep: int) -> None:
        """Start without rows.

        Args:
            keep: number K of values to keep per column, at least 1.
        """
        self._keep = keep
        self._value_KX: Tensor | None = None
        self._row_KX: Tensor | None = None

    def add(self, value_BX: Tensor, row_B: Tensor) -> None:
        """Add rows, which must come after all rows that were added before.

        Args:
            value_BX: values of all columns.
            row_B: numbers of the rows, int64, increasing.
        """
        row_BX = row_B[:, None].expand_as(value_BX)
        if self._value_KX is not None and self._row_KX is not None:
            # The sort is stable, so earlier rows must stand first to win ties.
            value_BX = torch.cat((self._value_KX, value_BX))
            row_BX = torch.cat((self._row_KX, row_BX))
        order_BX = value_BX.argsort(dim=0, descending=True, stable=True)
        best_KX = order_BX[: self._keep]
        self._value_KX = value_BX.gather(0, best_KX)
        self._row_KX = row_BX.gather(0, best_KX)

    def found(self) -> tuple[Tensor, Tensor]:
        """Return value_XK and row_XK, greatest first; fewer than K if fewer rows were added.

        Raises:
            ValueError: no rows were added.
        """
        if self._value_KX is None or self._row_KX is None:
            raise ValueError("no rows were added")
        return self._value_KX.T, self._row_KX.T


@torch.inference_mode()
def strongest_images(
    network: Network,
    batches: Iterable[Batch],
    filters: Mapping[str, Sequence[int]],
    *,
    keep: int,
    device: str,
    precision: Precision,
) -> dict[str, Strongest]:
    """Return, by layer, the images with the largest spatial mean of the map after its ReLU.

    Args:
        network: a network in eval mode, on the device.
        batches: at least one batch, in order of increasing image_id.
        filters: numbers of F filters for each layer.
        keep: number K of images per filter; there are fewer if there are fewer images.
        device: a torch device.
        precision: number format of the forward pass.
    """
    leaders = Leaders(keep)
    readers: dict[str, Callable[[Tensor], Tensor]] = {}
    for layer, numbers in filters.items():
        chosen_F = torch.tensor(numbers, device=device)
        readers[layer] = partial(_activation_of, chosen_F=chosen_F)
    for id_B, views in batches:
        with autocast(device, precision):
            read = network.read_layers(to_images(views, device), readers)
        # One table of all layers needs one sort per batch instead of one per layer.
        activation_BX = torch.cat([read[layer] for layer in filters], dim=1)
        leaders.add(activation_BX, torch.from_numpy(id_B).to(device))

    # The columns of all layers lie side by side; split them into layers again.
    value_XK, row_XK = leaders.found()
    strongest: dict[str, Strongest] = {}
    first = 0
    for layer, numbers in filters.items():
        columns = slice(first, first + len(numbers))
        strongest[layer] = Strongest(
            image_id_FK=row_XK[columns].cpu().numpy(),
            activation_FK=value_XK[columns].cpu().numpy(),
        )
        first += len(numbers)
    return strongest


def _activation_of(map_BFHW: Tensor, chosen_F: Tensor) -> Tensor:
    return mean_activation(map_BFHW)[:, chosen_F]
