"""Average precision by trapezoids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcluster_core.evaluation.retrieval.average_precision import (
    chance,
    trapezoid_average_precision,
)

A, B, C, D, E = range(5)


@pytest.mark.parametrize(
    ("ranked", "positive", "junk", "expected"),
    [
        ([A, B, C, D], {A, B}, set[int](), 1.0),
        # Recall goes from 0 to 1 at the second image, precision from 0 / 1 to 1 / 2.
        ([A, B], {B}, set[int](), 0.25),
        # At A by half, precision 1 and 1; at C by half, precision 1 / 2 and 2 / 3.
        ([A, B, C], {A, C}, set[int](), 0.5 + 0.5 * (1 / 2 + 2 / 3) / 2),
        # What is junk might as well not be there.
        ([D, A, E, B, C], {A, C}, {D, E}, 0.5 + 0.5 * (1 / 2 + 2 / 3) / 2),
        # Of two positives one is never found.
        ([A, B], {A, C}, set[int](), 0.5),
        ([A, B], {C}, {B}, 0.0),
    ],
)
def test_trapezoid_average_precision__by_hand(
    ranked: list[int], positive: set[int], junk: set[int], expected: float
) -> None:
    found = trapezoid_average_precision(np.array(ranked), positive, junk)

    assert found == pytest.approx(expected)


def area_step_by_step(ranked: list[int], positive: set[int], junk: set[int]) -> float:
    """Return the area under the curve, one image of the ranking after the other."""
    area, recall, precision, found, seen = 0.0, 0.0, 1.0, 0, 0
    for image in ranked:
        if image in junk:
            continue
        seen += 1
        found += image in positive
        new_recall, new_precision = found / len(positive), found / seen
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


@given(
    ranked=st.permutations(range(12)),
    verdicts=st.lists(st.sampled_from(["right", "wrong", "junk"]), min_size=12, max_size=12),
)
def test_trapezoid_average_precision__is_the_area_step_by_step(
    ranked: list[int], verdicts: list[str]
) -> None:
    positive = {0} | {n for n, verdict in enumerate(verdicts) if verdict == "right"}
    junk = {n for n, verdict in enumerate(verdicts) if verdict == "junk"} - positive

    found = trapezoid_average_precision(np.array(ranked), positive, junk)

    assert found == pytest.approx(area_step_by_step(ranked, positive, junk))


@pytest.mark.parametrize(("num_positive", "num_images"), [(1, 1), (1, 9), (3, 9), (9, 9)])
def test_chance__is_the_mean_of_random_rankings(num_positive: int, num_images: int) -> None:
    generator = np.random.default_rng(0)
    drawn = [
        trapezoid_average_precision(generator.permutation(num_images), range(num_positive), ())
        for _ in range(3000)
    ]

    standard_error = np.std(drawn) / np.sqrt(len(drawn))
    assert chance(num_positive, num_images) == pytest.approx(
        np.mean(drawn), abs=4 * standard_error + 1e-12
    )
