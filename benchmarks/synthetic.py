"""Random features, for benchmarks of the stages after extraction, and artifacts of them.

Suffixes: N rows, D dims, R rank, B block.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.features import write_features
from deepcluster_core.artifacts.images_writer import ImagesWriter, PackedImage
from deepcluster_core.config import FeatureDtype
from deepcluster_core.context import Context
from stages.extract import extract
from stages.index import index

BLOCK_ROWS = 16_384
CONTEXT = Context(seed=0, epoch=0)


def random_blocks(
    count: int, dim: int, *, device: str = "cpu", seed: int = 0
) -> Iterator[torch.Tensor]:
    """Yield `count` rows of `dim`, float32 on the device, in blocks.

    Their variances fall as 1 / i in an eighth of the dimensions, and there is a little noise in all
    dimensions. The features of a network are similar: their spectrum decays, and no direction is
    empty.
    """
    generator = torch.Generator(device).manual_seed(seed)
    rank = dim // 8

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    number_R = torch.arange(1, rank + 1, device=device)
    weight_R1 = number_R[:, None].rsqrt()  # the standard deviation is the root of the variance
    mix_RD = weight_R1 * normal(rank, dim)
    for start in range(0, count, BLOCK_ROWS):
        num_rows = min(BLOCK_ROWS, count - start)
        # Without a name for the signal, which would stay in memory while the block is used.
        yield normal(num_rows, rank) @ mix_RD + 0.1 * normal(num_rows, dim)


def random_features(count: int, dim: int) -> NDArray[np.float32]:
    """Return the rows as one array in memory."""
    blocks = list(random_blocks(count, dim))
    return torch.cat(blocks).numpy()


def write_random_features(
    out: Path, *, count: int, dim: int, dtype: FeatureDtype = "float16", device: str = "cpu"
) -> None:
    """Write a features artifact of random rows."""
    blocks = random_blocks(count, dim, device=device)
    with new_artifact(extract.identity, out, config={}, inputs={}, context=CONTEXT) as draft:
        rows = (block_BD.cpu().numpy() for block_BD in blocks)
        write_features(out, rows, num_images=count, dtype=dtype)
        draft.rows = count


def write_index(out: Path, *, count: int) -> None:
    """Write an images artifact with the names of `count` images, which do not exist."""
    with new_artifact(index.identity, out, config={}, inputs={}, context=CONTEXT) as draft:
        with ImagesWriter(out, packs=False) as writer:
            for number in range(count):
                path = f"{number:09d}.jpg"
                writer.add(PackedImage(path, None, 500, 375, "JPEG", 256, 341, b""))
        draft.rows = count
