"""The step definition, against scikit-learn's and by hand where scores are equal."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from deepcluster_core.evaluation.voc.average_precision import average_precision


@pytest.mark.parametrize("num_right", [1, 7, 60])
@pytest.mark.parity
def test_average_precision__is_scikit_learns_without_ties(num_right: int) -> None:
    generator = np.random.default_rng(num_right)
    score_N = generator.permutation(60).astype(np.float32)
    is_right_N = generator.permutation(60) < num_right

    ours = average_precision(score_N, is_right_N)

    assert ours == pytest.approx(average_precision_score(is_right_N, score_N), abs=1e-12)


def test_average_precision__takes_every_rank_not_eleven_recalls() -> None:
    # Right at ranks 1 and 4: precisions 1 and 2/4. The mean over 11 recalls would be 8.5 / 11.
    is_right_N = np.array([True, False, False, True])
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), is_right_N) == 0.75


def test_average_precision__wrong_ones_come_first_among_equal_scores() -> None:
    # Ranks by hand: 9 right; then of the three 5s two wrong ones and the right one; then 1 right.
    score_N = np.array([5.0, 9.0, 5.0, 1.0, 5.0])
    is_right_N = np.array([True, True, False, True, False])

    expected = (1 / 1 + 2 / 4 + 3 / 5) / 3

    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):  # none gains by its order
        assert average_precision(score_N[order], is_right_N[order]) == pytest.approx(expected)


def test_average_precision__of_one_answer_for_all_is_the_worst_ranking() -> None:
    is_right_N = np.array([True, False, True, False])
    assert average_precision(np.zeros(4), is_right_N) == pytest.approx((1 / 3 + 2 / 4) / 2)
