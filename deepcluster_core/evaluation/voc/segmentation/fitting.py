"""Training a fully convolutional network on pictures, and judging it on others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from deepcluster_core import seeding
from deepcluster_core.data.decode import Pixels
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.evaluation.voc.segmentation.fcn import Fcn, Mask
from deepcluster_core.training.learner import train_steps
from deepcluster_core.training.sampler import plain_order


@dataclass(frozen=True)
class Masked:
    """Pictures and their masks. Both functions are called from several threads."""

    picture: Callable[[int], Pixels]
    """Function that returns picture 0 to N - 1, (H, W, C)."""
    mask: Callable[[int], Mask]
    """Function that returns the mask of picture 0 to N - 1, (H, W)."""
    size: int
    """Number of pictures N."""


@dataclass(frozen=True)
class Loading:
    """The settings of loading pictures."""

    batch_size: int
    """Pictures in a training step, and in a forward pass when judging."""
    workers: int
    """Number of threads that load pictures."""
    seed: int
    """Seed of the order of pictures."""
    cache_bytes: int
    """Main memory for the maps of frozen convolutions. The result does not depend on it."""


@dataclass(frozen=True)
class _Loaded:
    row: int
    picture_HWC: Pixels | None
    """The picture; None if its map is kept."""
    mask_HW: Mask


def fit(
    model: Fcn,
    training: Masked,
    loading: Loading,
    *,
    iterations: int,
    start: int,
    after_step: Callable[[int], None],
) -> None:
    """Train on whole pictures. Each pass over the pictures has a new order.

    Args:
        model: modified in place.
        training: pictures of any size.
        loading: settings of loading.
        iterations: total number of steps.
        start: number of steps that are already completed.
        after_step: called with the number of completed steps. The model does not change meanwhile.

    Raises:
        TrainingError: the loss is not finite.
    """
    num_drawn = iterations * loading.batch_size
    generator = seeding.numpy_generator(loading.seed, "order")
    order_M = plain_order(training.size, num_drawn, generator)
    kept = _Maps(model, loading.cache_bytes)

    def load(step: int) -> list[_Loaded]:
        first = step * loading.batch_size
        rows = order_M[first : first + loading.batch_size].tolist()
        batch: list[_Loaded] = []
        for row in rows:
            # A kept map needs no picture.
            picture_HWC = None if row in kept else training.picture(row)
            batch.append(_Loaded(row, picture_HWC, training.mask(row)))
        return batch

    def learn(batch: list[_Loaded], step: int) -> Tensor:
        def loss() -> Tensor:
            maps = [kept.of(loaded) for loaded in batch]
            masks = [loaded.mask_HW for loaded in batch]
            return model.loss(maps, masks)

        return model.descend(loss, step)

    # Threads load the pictures of the next steps while the device learns from those of this one.
    steps = range(start, iterations)
    train_steps(load, learn, steps=steps, workers=loading.workers, after_step=after_step)


def judge(model: Fcn, images: Masked, loading: Loading) -> Iterator[tuple[int, Mask, Mask]]:
    """Yield each picture's number, its true mask and its predicted mask, in order."""

    def load(first: int) -> list[tuple[Pixels, Mask]]:
        end = min(first + loading.batch_size, images.size)
        rows = range(first, end)
        return [(images.picture(row), images.mask(row)) for row in rows]

    firsts = range(0, images.size, loading.batch_size)
    row = 0
    for batch in ordered_map(load, firsts, workers=loading.workers):
        pictures = [picture_HWC for picture_HWC, _ in batch]
        found = model.masks(pictures)
        for (_, truth_HW), found_HW in zip(batch, found, strict=True):
            yield row, truth_HW, found_HW
            row += 1


class _Maps:
    """A cache of the maps of pictures in main memory, filled up to a limit.

    It stays empty if training changes the maps.
    """

    def __init__(self, model: Fcn, limit_bytes: int) -> None:
        self._model = model
        self._free_bytes = 0 if model.maps_change else limit_bytes
        self._kept: dict[int, Tensor] = {}

    def __contains__(self, row: int) -> bool:
        """Return whether the map of a picture is kept; it is never dropped again."""
        return row in self._kept

    def of(self, loaded: _Loaded) -> Tensor:
        """Return the map of a picture, on the device."""
        # A picture may have been loaded twice before its map was kept.
        if loaded.picture_HWC is None or loaded.row in self._kept:
            return self._kept[loaded.row].to(self._model.device, non_blocking=True)
        map_1CHW = self._model.map(loaded.picture_HWC)
        if map_1CHW.nbytes <= self._free_bytes:
            self._free_bytes -= map_1CHW.nbytes
            self._kept[loaded.row] = map_1CHW.cpu()
        return map_1CHW
