"""Weighted k-nearest neighbours: classify an image by the classes of the nearest features.

Suffixes: N training images, M images to classify, B training images of a block, Q images to
classify at once, K neighbours, D values of a feature, C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from deepcluster_core.errors import FeatureError
from deepcluster_core.precision import exact_float32

BLOCK_ROWS = 4096
"""Training images that are compared at once; large enough for a fast matrix product."""
CELLS = 1 << 20
"""Similarities in memory at once, about 30 bytes each; four times as many are 10 % slower."""
LOW_BITS = (1 << 32) - 1
SIGN_BIT_UNSET = (1 << 31) - 1
FARTHEST = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Neighbours:
    """The K nearest training images of each image, nearest first; ties go to the earlier image."""

    similarity_MK: NDArray[np.float32]
    """Cosine similarity, -1 to 1."""
    row_MK: NDArray[np.int64]
    """Positions among the training images."""


def unit_rows(features_BD: NDArray[np.float32]) -> Tensor:
    """Return features scaled to length one; a zero feature stays zero, and is similar to nothing.

    Raises:
        FeatureError: a value is not finite.
    """
    rows_BD = normalize(torch.from_numpy(features_BD), dim=1)
    if not bool(torch.isfinite(rows_BD).all()):
        raise FeatureError(
            "the network outputs features that are not finite numbers.\n"
            "  Cause: its training diverged, or the precision is too low for it.\n"
            "  Fix:   evaluate an earlier epoch, or set precision=float32."
        )
    return rows_BD


@exact_float32()
def nearest(
    queries_MD: Tensor,
    batches: Iterable[Tensor],
    *,
    k: int,
    block_rows: int = BLOCK_ROWS,
) -> Neighbours:
    """Return the neighbours of all queries among training images that come in batches.

    Memory never holds all training features or an M x N matrix; it takes 4 D + 8 k bytes per query.
    The order of the training images matters only for exact ties, and the sizes of batches and
    blocks only for the last bit of a similarity.

    Args:
        queries_MD: rows of length one, float32.
        batches: rows of length one, on the device of the queries; at least `k` rows in total.
        k: number of neighbours.
        block_rows: training images that are compared at once.
    """
    device = queries_MD.device
    queries_at_once = max(1, CELLS // block_rows)
    queries = queries_MD.split(queries_at_once)
    best = [torch.full((len(part_QD), k), FARTHEST, device=device) for part_QD in queries]
    num_rows = 0
    for rows_BD in _blocks(batches, block_rows):
        first = num_rows
        num_rows += len(rows_BD)
        row_B = torch.arange(first, num_rows, device=device)
        for number, part_QD in enumerate(queries):
            # `batches` may be a generator that is suspended inside an autocast block.
            with torch.autocast(device.type, enabled=False):
                similarity_QB = part_QD @ rows_BD.T
            # The best of this block, and then the best of all blocks so far.
            key_QB = _keys(similarity_QB, row_B)
            near_QK = key_QB.topk(min(k, len(rows_BD)), dim=1).values
            candidates = torch.cat((best[number], near_QK), dim=1)
            best[number] = candidates.topk(k, dim=1).values
    assert num_rows >= k, f"{num_rows} training images are too few for {k} neighbours"
    key_MK = torch.cat(best).cpu()
    similarity_MK, row_MK = _from_keys(key_MK)
    return Neighbours(similarity_MK, row_MK)


def votes(
    found: Neighbours,
    class_N: NDArray[np.int64],
    *,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each k, in increasing order, and the classes that the k nearest neighbours vote for.

    A neighbour's vote weighs exp(similarity / temperature); ties go to the lower class.
    Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4.

    Args:
        found: neighbours, at least as many per image as the greatest of `ks`.
        class_N: classes of the training images.
        ks: numbers of neighbours.
        temperature: temperature of the weights, no unit.
        num_classes: C.
    """
    # Divide all weights of an image by that of its nearest neighbour. The sums keep their order,
    # and exp() cannot overflow.
    similarity_MK = torch.from_numpy(found.similarity_MK).double()
    nearest_M1 = similarity_MK[:, :1]
    weight_MK = torch.exp((similarity_MK - nearest_M1) / temperature)
    class_MK = torch.from_numpy(class_N[found.row_MK])

    # The sums of all images at once may not fit into memory.
    images_at_once = max(1, CELLS // num_classes)
    for k in sorted(ks):
        winners: list[Tensor] = []
        for start in range(0, len(class_MK), images_at_once):
            chosen = slice(start, start + images_at_once)
            class_QK = class_MK[chosen, :k]
            weight_QK = weight_MK[chosen, :k]
            sums_QC = torch.zeros(len(class_QK), num_classes, dtype=torch.float64)
            sums_QC.scatter_add_(1, class_QK, weight_QK)
            winners.append(sums_QC.argmax(dim=1))
        yield k, torch.cat(winners).numpy()


def _blocks(batches: Iterable[Tensor], num_rows: int) -> Iterator[Tensor]:
    """Yield the rows of all batches in blocks of `num_rows`; the last block may be smaller."""
    waiting: list[Tensor] = []
    num_waiting = 0
    for batch_BD in batches:
        waiting.append(batch_BD)
        num_waiting += len(batch_BD)
        if num_waiting < num_rows:
            continue
        # The last piece waits for more rows, unless it is a full block itself.
        *full_blocks, rest_BD = torch.cat(waiting).split(num_rows)
        if len(rest_BD) == num_rows:
            full_blocks.append(rest_BD)
            rest_BD = rest_BD[:0]
        yield from full_blocks
        # A copy, so that the rows of the full blocks need not stay in memory.
        waiting = [rest_BD.clone()]
        del full_blocks
        num_waiting = len(rest_BD)
    if num_waiting:
        yield torch.cat(waiting)


def _keys(similarity_QB: Tensor, row_B: Tensor) -> Tensor:
    """Return an int64 key for each similarity; keys sort by similarity, and then by row.

    `topk` may return equal values in any order. No two of these keys are equal, so its result is
    identical on every device. The upper 32 bits hold the similarity, the lower 32 bits the row. The
    row is counted downwards, so the earlier of two equally similar rows has the greater key.
    """
    # The bits of positive floats, read as an integer, are in the order of the floats. Those of
    # negative floats are in the reverse order, so all their bits but the sign are inverted.
    bits_QB = similarity_QB.view(torch.int32)
    bits_QB = torch.where(bits_QB < 0, bits_QB ^ SIGN_BIT_UNSET, bits_QB)
    upper_QB = bits_QB.long() << 32
    lower_B = LOW_BITS - row_B
    return upper_QB | lower_B


def _from_keys(key_MK: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return similarity_MK and row_MK of keys: the inverse of `_keys`."""
    bits_MK = (key_MK >> 32).int()
    bits_MK = torch.where(bits_MK < 0, bits_MK ^ SIGN_BIT_UNSET, bits_MK)
    similarity_MK = bits_MK.view(torch.float32)
    row_MK = LOW_BITS - (key_MK & LOW_BITS)
    return similarity_MK.numpy(), row_MK.numpy()
