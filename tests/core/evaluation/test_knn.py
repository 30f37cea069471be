"""Suffixes: N training images, M images to classify, K neighbours, D values of a feature."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from deepcluster_core.errors import FeatureError
from deepcluster_core.evaluation.knn import Neighbours, nearest, unit_rows, votes

T = 0.07
KS = (1, 5, 20, 50)
Floats = NDArray[np.float32]
Classes = NDArray[np.int64]


def crowd(num: int, *, seed: int, classes: int = 6) -> tuple[Floats, Classes]:
    """Return features as a ReLU leaves them, around overlapping centres, and their classes."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((classes, 32))
    class_N = generator.integers(classes, size=num)
    features_ND = centres[class_N] + 2 * generator.standard_normal((num, 32))
    return np.maximum(features_ND, 0).astype(np.float32), class_N


def weight(distance_MK: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp((1 - distance_MK) / T)


def batched(rows_ND: Tensor, size: int) -> Iterator[Tensor]:
    yield from rows_ND.split(size)


def found(
    queries_MD: Floats, training_ND: Floats, *, k: int, batch: int = 64, block: int = 128
) -> Neighbours:
    batches = batched(unit_rows(training_ND), batch)
    return nearest(unit_rows(queries_MD), batches, k=k, block_rows=block)


def voted(neighbours: Neighbours, class_N: Classes, *ks: int) -> dict[int, Classes]:
    return dict(votes(neighbours, class_N, ks=ks or KS, temperature=T, num_classes=6))


@pytest.mark.parity
def test_votes__are_those_of_scikit_learn() -> None:
    training_ND, class_N = crowd(700, seed=1)
    queries_MD, truth_M = crowd(300, seed=2)

    ours = voted(found(queries_MD, training_ND, k=max(KS)), class_N)

    for k in KS:
        reference = KNeighborsClassifier(
            k,
            metric="cosine",
            algorithm="brute",
            weights=weight,  # pyright: ignore[reportArgumentType]  its stub knows names alone
        )
        reference.fit(training_ND.astype(np.float64), class_N)
        np.testing.assert_array_equal(ours[k], reference.predict(queries_MD.astype(np.float64)))
    assert 0.4 < np.mean(ours[20] == truth_M) < 0.95, "the classes must be neither clear nor noise"
    assert any((ours[1] != ours[k]).any() for k in KS), "k must matter"


@pytest.mark.parametrize(("batch", "block"), [(1, 50), (64, 64), (700, 50), (50, 700), (33, 4096)])
def test_nearest__sizes_of_batches_and_blocks_change_nothing(batch: int, block: int) -> None:
    training_ND, _ = crowd(700, seed=1)
    queries_MD, _ = crowd(90, seed=2)
    whole = unit_rows(queries_MD) @ unit_rows(training_ND).T
    expected = whole.sort(dim=1, descending=True)

    neighbours = found(queries_MD, training_ND, k=50, batch=batch, block=block)

    # 1e-6: float32 sums of 32 products in another order.
    np.testing.assert_allclose(neighbours.similarity_MK, expected.values[:, :50], atol=1e-6)
    same = neighbours.row_MK == expected.indices[:, :50].numpy()
    assert same.mean() > 0.999, "but for similarities that agree in all but the last bit"


def test_nearest__all_training_images_are_neighbours_once() -> None:
    training_ND, _ = crowd(130, seed=1)
    queries_MD, _ = crowd(7, seed=2)

    neighbours = found(queries_MD, training_ND, k=130, block=50)

    assert (np.sort(neighbours.row_MK, axis=1) == np.arange(130)).all()
    assert (np.diff(neighbours.similarity_MK, axis=1) <= 0).all()


def test_nearest__negative_similarities_come_last() -> None:
    training_ND = np.array([[-1, 0], [0, 1], [1, 0], [-1, -1], [0, -0.0]], np.float32)

    neighbours = found(np.array([[2.0, 0.0]], np.float32), training_ND, k=5, block=2)

    assert neighbours.row_MK.tolist() == [[2, 1, 4, 3, 0]]
    half = np.sqrt(np.float32(0.5))
    np.testing.assert_allclose(neighbours.similarity_MK, [[1, 0, 0, -half, -1]], rtol=1e-6)


def test_nearest__of_equally_near_images_the_earlier_one() -> None:
    # Copies of one image in every block: whatever comes first is kept, whatever topk prefers.
    training_ND = np.tile(np.eye(4, dtype=np.float32), (50, 1))

    neighbours = found(np.eye(4, dtype=np.float32), training_ND, k=9, block=30)

    for axis in range(4):
        assert neighbours.row_MK[axis].tolist() == [axis + 4 * n for n in range(9)]


def test_votes__order_of_the_training_images_does_not_matter() -> None:
    training_ND, class_N = crowd(500, seed=1)
    queries_MD, _ = crowd(200, seed=2)
    order_N = np.random.default_rng(3).permutation(500)

    one = voted(found(queries_MD, training_ND, k=50), class_N)
    other = voted(found(queries_MD, training_ND[order_N], k=50), class_N[order_N])

    for k in KS:
        np.testing.assert_array_equal(one[k], other[k])


def test_votes__by_hand() -> None:
    neighbours = Neighbours(
        similarity_MK=np.array([[0.9, 0.85, 0.85], [0.5, 0.5, 0.1]], np.float32),
        row_MK=np.array([[0, 1, 2], [2, 0, 1]]),
    )
    class_N = np.array([3, 1, 1])

    result = voted(neighbours, class_N, 3, 1, 2)

    assert list(result) == [1, 2, 3]
    assert result[1].tolist() == [3, 1]
    # Image 0: 1 against exp(-0.05 / 0.07) = 0.49 each. Image 1, k = 2: equal, so the lower class.
    assert result[2].tolist() == [3, 1]
    # Image 0: 1 against 2 * 0.49 = 0.98, still; two hundredths nearer and the two would win.
    assert result[3].tolist() == [3, 1]
    nearer = Neighbours(np.array([[0.9, 0.87, 0.87]], np.float32), neighbours.row_MK[:1])
    assert voted(nearer, class_N, 3)[3].tolist() == [1]


def test_votes__a_low_temperature_leaves_the_nearest_alone() -> None:
    training_ND, class_N = crowd(200, seed=1)
    neighbours = found(crowd(50, seed=2)[0], training_ND, k=50)

    sharp = dict(votes(neighbours, class_N, ks=(50,), temperature=1e-6, num_classes=6))

    assert (sharp[50] == class_N[neighbours.row_MK[:, 0]]).all(), "no weight may overflow"


def test_unit_rows__features_of_zeros_stay_and_others_have_length_one() -> None:
    rows = unit_rows(np.array([[3, 4], [0, 0]], np.float32))

    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_unit_rows__refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(FeatureError, match="not finite"):
        unit_rows(np.array([[1, value]], np.float32))


def test_nearest__computes_in_float32_whatever_surrounds_it() -> None:
    training_ND, _ = crowd(100, seed=1)
    queries_MD, _ = crowd(20, seed=2)
    plain = found(queries_MD, training_ND, k=10)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = found(queries_MD, training_ND, k=10)

    np.testing.assert_array_equal(within.similarity_MK, plain.similarity_MK)
