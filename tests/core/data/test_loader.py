import itertools
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcluster_core.data.loader import ordered_map
from tests.support.timeouts import WITHIN_S


def square_slowly(number: int) -> int:
    """Take the longer the earlier, so that results become ready out of order."""
    time.sleep(0.002 * (number % 5 == 0))
    return number * number


@pytest.mark.parametrize("workers", [1, 2, 5, 100])
def test_ordered_map__keeps_the_order(workers: int) -> None:
    found = list(ordered_map(square_slowly, range(60), workers=workers))

    assert found == [number * number for number in range(60)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(), max_size=20), st.integers(1, 6))
def test_ordered_map__equals_map(items: list[int], workers: int) -> None:
    assert list(ordered_map(str, items, workers=workers)) == [str(item) for item in items]


def test_ordered_map__works_at_once_in_all_workers() -> None:
    # Nobody passes the barrier before three calls are inside; fewer threads would time out.
    barrier = threading.Barrier(3)

    found = list(ordered_map(lambda _: barrier.wait(timeout=WITHIN_S) >= 0, range(3), workers=3))

    assert found == [True] * 3


@pytest.mark.parametrize("workers", [1, 4])
def test_ordered_map__error_comes_where_its_result_would(workers: int) -> None:
    def refuse_seven(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number

    results = ordered_map(refuse_seven, range(20), workers=workers)

    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)


@pytest.mark.parametrize("workers", [1, 3])
def test_ordered_map__reads_items_only_as_far_as_the_work_goes(workers: int) -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    results = ordered_map(abs, endless(), workers=workers)
    assert read == [], "nothing happens before the first result is asked for"

    taken = [next(results) for _ in range(4)]

    assert taken == [0, 1, 2, 3]
    assert len(read) <= 4 + 2 * workers
    results.close()  # pyright: ignore[reportAttributeAccessIssue]  it is a generator


def test_ordered_map__reads_items_in_the_callers_thread() -> None:
    threads: list[str] = []

    def items() -> Iterator[int]:
        for number in range(10):
            threads.append(threading.current_thread().name)
            yield number

    list(ordered_map(abs, items(), workers=3))

    assert set(threads) == {threading.current_thread().name}


def test_ordered_map__leaves_no_thread_when_it_is_left_early() -> None:
    results = ordered_map(square_slowly, itertools.count(), workers=3)
    next(results)

    results.close()  # pyright: ignore[reportAttributeAccessIssue]  it is a generator

    assert [t.name for t in threading.enumerate() if t.name.startswith("loader")] == []


def test_ordered_map__error_among_the_items_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(ordered_map(abs, items(), workers=2))
