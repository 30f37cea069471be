"""Neighbours, duplicates, outliers and places on a map."""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.inspection.duplicates import duplicate_groups
from deepcluster_core.inspection.layout import positions
from deepcluster_core.inspection.neighbours import few_nearest_neighbours, nearest_neighbours
from deepcluster_core.inspection.outliers import outlier_scores


def unit_rows(num_rows: int, width: int, *, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_nearest_neighbours__equal_a_full_sort_of_the_cosines() -> None:
    rows_NQ = unit_rows(300, 8)

    found = nearest_neighbours(rows_NQ, 5)

    cosine_NN = rows_NQ.astype(np.float64) @ rows_NQ.T.astype(np.float64)
    np.fill_diagonal(cosine_NN, -2)
    expected_NM = np.argsort(-cosine_NN, axis=1)[:, :5]
    np.testing.assert_array_equal(found.image_id_NM, expected_NM)
    expected = np.take_along_axis(cosine_NN, expected_NM, axis=1)
    np.testing.assert_allclose(found.similarity_NM, expected, atol=1e-6)  # float32


def test_few_nearest_neighbours__are_those_of_faiss() -> None:
    rows_NQ = unit_rows(1100, 8)  # three blocks

    found, expected = few_nearest_neighbours(rows_NQ, 5), nearest_neighbours(rows_NQ, 5)

    np.testing.assert_array_equal(found.image_id_NM, expected.image_id_NM)
    np.testing.assert_allclose(found.similarity_NM, expected.similarity_NM, atol=1e-6)  # float32
    assert few_nearest_neighbours(rows_NQ[:2], 10).image_id_NM.tolist() == [[1], [0]]


def test_nearest_neighbours__an_image_is_never_its_own_even_among_many_copies() -> None:
    rows_NQ = np.repeat(unit_rows(2, 4), 20, axis=0)

    found = nearest_neighbours(rows_NQ, 3)

    assert (found.image_id_NM != np.arange(40)[:, None]).all()
    assert found.similarity_NM.min() > 0.999


def test_nearest_neighbours__of_two_images__are_each_other() -> None:
    found = nearest_neighbours(unit_rows(2, 4), 10)

    assert found.image_id_NM.tolist() == [[1], [0]]


def test_nearest_neighbours__features_of_zeros_are_similar_to_nothing() -> None:
    rows_NQ = unit_rows(40, 8)
    rows_NQ[[3, 9]] = 0

    for found in (nearest_neighbours(rows_NQ, 39), few_nearest_neighbours(rows_NQ, 39)):
        assert not found.similarity_NM[[3, 9]].any()
        is_zero_NM = np.isin(found.image_id_NM, [3, 9])
        assert not found.similarity_NM[is_zero_NM].any()
    groups = duplicate_groups(nearest_neighbours(rows_NQ, 5), threshold=0.99)
    assert groups == [], "two images without features are no duplicates"


def test_duplicate_groups__finds_copies_and_nothing_else() -> None:
    rows_NQ = unit_rows(50, 16)
    rows_NQ[[7, 30]] = rows_NQ[3]
    rows_NQ[41] = rows_NQ[40]

    groups = duplicate_groups(nearest_neighbours(rows_NQ, 5), threshold=0.99)

    assert groups == [[3, 7, 30], [40, 41]]


def test_outlier_scores__the_image_that_is_opposite_to_all_has_the_highest() -> None:
    rows_NQ = unit_rows(40, 6) * 0.1 + np.eye(6, dtype=np.float32)[0]
    rows_NQ[11] = -rows_NQ[11]
    rows_NQ /= np.linalg.norm(rows_NQ, axis=1, keepdims=True)

    score_N = outlier_scores(nearest_neighbours(rows_NQ, 5))

    assert score_N.argmax() == 11
    assert 0 <= score_N.min() <= score_N.max() <= 1


def test_positions__an_epoch_that_is_only_turned_lies_on_the_next_one() -> None:
    rows_NQ = unit_rows(100, 5) * np.array([3, 2, 1, 1, 1], np.float32)
    turn_QQ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0].astype(np.float32)

    before_N2, after_N2 = positions([rows_NQ @ turn_QQ, rows_NQ])

    np.testing.assert_allclose(before_N2, after_N2, atol=1e-4)  # float32
    assert np.abs(after_N2).max() == 1


def test_positions__in_one_dimension__lie_on_a_line() -> None:
    (places_N2,) = positions([np.arange(5, dtype=np.float32)[:, None]])

    np.testing.assert_array_equal(places_N2[:, 1], 0)
    assert len(np.unique(places_N2[:, 0])) == 5
