"""Values are made once until they are dropped, whatever the number of threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deepcluster_core.artifacts.recent_values import RecentValues


def test_recent_values__makes_what_is_not_kept_any_more() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    values = RecentValues(make, limit=2)

    assert [values[number] for number in (1, 2, 1, 3, 2, 1)] == [1, 4, 1, 9, 4, 1]
    assert made == [1, 2, 3, 1], "3 took the place of 1, which was made first"
    assert len(values) == 2


def test_recent_values__many_threads_get_the_right_values() -> None:
    values = RecentValues(lambda number: number + 1000, limit=3)
    order = np.random.default_rng(0).integers(9, size=5000).tolist()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: values[number], order))

    assert found == [number + 1000 for number in order]
    assert len(values) <= 3
