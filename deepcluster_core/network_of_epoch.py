"""The network that an epoch begins with: that of the epoch before, or in the first one a new one.

Suffixes: B images of a batch, C channels, S pixels of a side.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import center_view
from deepcluster_core.models.calibration import measured_statistics
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network

NUM_IMAGES = 2_048
"""Images that a network is calibrated on, at most."""
BATCH_SIZE = 128
"""Images in a batch of them, at most."""
RESIZE = 256 / 224
"""Shorter side of an image by the side of its central view, as usual. `extract.resize` would be
nearer to the features, but training does not depend on it, and has to get the same network."""


def network_of_epoch(
    config: NetworkConfig, pictures: Images, *, checkpoint: Path | None, context: Context
) -> Network:
    """Return the network of a checkpoint or, without one, the network that a run begins with.

    The latter depends on the configuration, the seed and, with `network.calibrate`, the images; so
    that all stages of the first epoch get the same one. On a GPU the measured statistics can differ
    in their last digits.

    Args:
        config: the network section of a recipe.
        pictures: the images of the run.
        checkpoint: checkpoint of the epoch before; None in the first epoch.
        context: its seed is that of the run. All ranks call this.

    Raises:
        ArtifactError: the checkpoint is damaged, or belongs to a different network.
        ConfigError: raised by `build_network`.
    """
    network = restore_network(
        config, channels=pictures.channels, seed=context.seed, checkpoint=checkpoint
    )
    if checkpoint is None and config.calibrate:
        # On one rank, so that all have equal bits.
        statistics = context.ranks.on_first(
            lambda: measured_statistics(
                network,
                _random_views(pictures, config.image_size, context),
                device=context.device,
            ),
            "calibration",
        )
        network.load_state_dict(statistics, strict=False)
    return network


def _random_views(pictures: Images, size: int, context: Context) -> Iterator[NDArray[np.uint8]]:
    """Yield batches (B, S, S, C) of central views of images, in an order that the seed decides."""
    total = len(pictures)
    num_images = min(total, NUM_IMAGES)
    generator = seeding.numpy_generator(context.seed, "calibrate")
    # Neighbours are often alike, because folders have classes of their own.
    image_id_N = generator.permutation(total)[:num_images]
    resize = round(size * RESIZE)

    def load(batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        views: list[NDArray[np.uint8]] = []
        for image_id in batch:
            image_HWC = pictures.verified(int(image_id))
            views.append(center_view(image_HWC, resize=resize, size=size))
        return np.stack(views)

    # Of nearly equal size, because each has equal weight, and none may consist of one image.
    num_batches = -(-num_images // BATCH_SIZE)
    batches = np.array_split(image_id_N, num_batches)
    # Closed, so that an error ends the threads at once.
    with closing(ordered_map(load, batches, workers=context.workers)) as loaded:
        yield from loaded
