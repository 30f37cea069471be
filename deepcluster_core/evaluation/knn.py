"""Weighted k-nearest neighbours: how well the classes of near features tell that of an image.

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
"""Training images that are compared at once: large enough for a fast matrix product."""
CELLS = 1 << 20
"""Similarities in memory at once, of some 30 bytes each; four times as many are 10 % slower."""
LOW_BITS = (1 << 32) - 1
SIGN_BIT_UNSET = (1 << 31) - 1
FARTHEST = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Neighbours:
    """The K nearest training images of each image, nearest first; of equals the earlier ones."""

    similarity_MK: NDArray[np.float32]
    """Cosine, -1 to 1."""
    row_MK: NDArray[np.int64]
    """Places among the training images."""


def unit_rows(features_BD: NDArray[np.float32]) -> Tensor:
    """Return features with length one; a feature of zeros stays, and is similar to nothing.

    Raises:
        FeatureError: a value is not finite.
    """
    rows_BD = normalize(torch.from_numpy(features_BD), dim=1)
    if not bool(torch.isfinite(rows_BD).all()):
        raise FeatureError(
            "the network puts out features that are not finite numbers.\n"
            "  Cause: its training diverged, or the precision is too narrow for it.\n"
            "  Fix:   evaluate an earlier epoch, or set precision=float32."
        )
    return rows_BD


@exact_float32()
def nearest(
    queries_MD: Tensor, batches: Iterable[Tensor], *, k: int, block_rows: int = BLOCK_ROWS
) -> Neighbours:
    """Return the neighbours of all queries among training images that come in batches.

    Nobody holds all training features, nor an M x N matrix: memory takes 4 D + 8 k bytes a query.
    The result depends on the order of the training images in exact ties alone, and on the sizes of
    batches and blocks in the last bit of a similarity.

    Args:
        queries_MD: rows of length one, float32.
        batches: rows of length one, on the same device; at least `k` in all.
        k: neighbours.
        block_rows: training images that are compared at once.
    """
    device = queries_MD.device
    queries = queries_MD.split(max(1, CELLS // block_rows))
    best = [torch.full((len(part_QD), k), FARTHEST, device=device) for part_QD in queries]
    first = 0
    for rows_BD in _blocks(batches, block_rows):
        row_B = torch.arange(first, first + len(rows_BD), device=device)
        for number, part_QD in enumerate(queries):
            with torch.autocast(device.type, enabled=False):  # batches may come from within one
                similarity_QB = part_QD @ rows_BD.T
            near_QK = _keys(similarity_QB, row_B).topk(min(k, len(rows_BD)), dim=1).values
            best[number] = torch.cat((best[number], near_QK), dim=1).topk(k, dim=1).values
        first += len(rows_BD)
    assert first >= k, f"{first} training images have no {k} neighbours"
    return Neighbours(*_from_keys(torch.cat(best).cpu()))


def votes(
    found: Neighbours,
    class_N: NDArray[np.int64],
    *,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each k, in increasing order, and the classes that the k nearest neighbours vote for.

    A neighbour's vote weighs exp(similarity / temperature); of equal sums the lower class wins.
    Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4.

    Args:
        found: at least as many neighbours as the greatest of `ks`.
        class_N: classes of the training images.
        ks: numbers of neighbours.
        temperature: no unit.
        num_classes: C.
    """
    # Weights are relative to the nearest one: the sums keep their order, and none overflows.
    similarity_MK = torch.from_numpy(found.similarity_MK).double()
    weight_MK = torch.exp((similarity_MK - similarity_MK[:, :1]) / temperature)
    class_MK = torch.from_numpy(class_N[found.row_MK])
    at_once = max(1, CELLS // num_classes)
    for k in sorted(ks):
        winners: list[Tensor] = []
        for start in range(0, len(class_MK), at_once):
            chosen = slice(start, start + at_once)
            sums_QC = torch.zeros(len(class_MK[chosen]), num_classes, dtype=torch.float64)
            sums_QC.scatter_add_(1, class_MK[chosen, :k], weight_MK[chosen, :k])
            winners.append(sums_QC.argmax(dim=1))
        yield k, torch.cat(winners).numpy()


def _blocks(batches: Iterable[Tensor], num_rows: int) -> Iterator[Tensor]:
    """Yield the rows of batches in blocks of `num_rows`, the last one smaller."""
    waiting: list[Tensor] = []
    count = 0
    for batch_BD in batches:
        waiting.append(batch_BD)
        count += len(batch_BD)
        if count >= num_rows:
            *full, rest_BD = torch.cat(waiting).split(num_rows)
            if len(rest_BD) == num_rows:
                full, rest_BD = [*full, rest_BD], rest_BD[:0]
            yield from full
            waiting, count = [rest_BD.clone()], len(rest_BD)
    if count:
        yield torch.cat(waiting)


def _keys(similarity_QB: Tensor, row_B: Tensor) -> Tensor:
    """Return an int64 for each similarity, so that sorting the keys sorts by similarity, then row.

    `topk` may return equal values in any order. Of these keys no two are equal, so its result is
    the same on every device. The upper 32 bits hold the similarity, the lower 32 bits the row,
    counted downwards: of equal similarities the earlier row has the greater key.
    """
    # The bits of positive floats, read as an integer, are in the order of the floats. Those of
    # negative floats are in the reverse order, so all their bits but the sign are inverted.
    bits_QB = similarity_QB.view(torch.int32)
    bits_QB = torch.where(bits_QB < 0, bits_QB ^ SIGN_BIT_UNSET, bits_QB)
    return (bits_QB.long() << 32) | (LOW_BITS - row_B)


def _from_keys(key_MK: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return similarity_MK and row_MK of keys: the inverse of `_keys`."""
    bits_MK = (key_MK >> 32).int()
    bits_MK = torch.where(bits_MK < 0, bits_MK ^ SIGN_BIT_UNSET, bits_MK)
    return bits_MK.view(torch.float32).numpy(), (LOW_BITS - (key_MK & LOW_BITS)).numpy()
