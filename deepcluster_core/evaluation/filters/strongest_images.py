"""The images that excite a filter most (figures 4 and 5), found in one pass over all of them.

Suffixes: B images of a batch, S side of a view, C channels, F filters of a layer, X of all layers
that are looked at, K kept of each.
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
from deepcluster_core.features import to_images
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast

Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""id_B of images, and their views_BSSC."""


@dataclass(frozen=True)
class Strongest:
    """The images that excite the filters of a layer most, the strongest first."""

    image_id_FK: NDArray[np.int64]
    activation_FK: NDArray[np.float32]


class Leaders:
    """The K greatest values of each column of a table whose rows come in batches.

    Needs memory for K + B rows, however many come. Of equal values the earlier row leads, so
    batches of another size leave the same.
    """

    def __init__(self, keep: int) -> None:
        """Begin with none.

        Args:
            keep: K, at least 1.
        """
        self._keep = keep
        self._value_KX: Tensor | None = None
        self._row_KX: Tensor | None = None

    def add(self, value_BX: Tensor, row_B: Tensor) -> None:
        """Look at rows behind those that were added before.

        Args:
            value_BX: of all columns.
            row_B: numbers of the rows, int64, increasing.
        """
        row_BX = row_B[:, None].expand_as(value_BX)
        if self._value_KX is not None and self._row_KX is not None:
            value_BX = torch.cat((self._value_KX, value_BX))
            row_BX = torch.cat((self._row_KX, row_BX))
        order_BX = value_BX.argsort(dim=0, descending=True, stable=True)[: self._keep]
        self._value_KX, self._row_KX = value_BX.gather(0, order_BX), row_BX.gather(0, order_BX)

    def found(self) -> tuple[Tensor, Tensor]:
        """Return value_XK and row_XK, greatest first; fewer than K where fewer rows came.

        Raises:
            ValueError: no rows came.
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
        network: in eval mode, on the device.
        batches: by increasing number of the image; at least one.
        filters: F numbers of filters by layer.
        keep: K; fewer where there are fewer images.
        device: a torch device.
        precision: of the forward pass.
    """
    leaders = Leaders(keep)
    readers: dict[str, Callable[[Tensor], Tensor]] = {
        layer: partial(_activation_of, chosen_F=torch.tensor(numbers, device=device))
        for layer, numbers in filters.items()
    }
    for id_B, views_BSSC in batches:
        with autocast(device, precision):
            read = network.read_layers(to_images(views_BSSC, device), readers)
        activation_BX = torch.cat([read[layer] for layer in filters], dim=1)
        leaders.add(activation_BX, torch.from_numpy(id_B).to(device))
    value_XK, row_XK = (found.cpu().numpy() for found in leaders.found())
    ends = np.cumsum([len(numbers) for numbers in filters.values()])[:-1]
    parts = zip(filters, np.split(row_XK, ends), np.split(value_XK, ends), strict=True)
    return {layer: Strongest(row_FK, value_FK) for layer, row_FK, value_FK in parts}


def _activation_of(map_BFHW: Tensor, chosen_F: Tensor) -> Tensor:
    return mean_activation(map_BFHW)[:, chosen_F]
