import pytest

from deepcluster_core.report.scale import Scale, upwards


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 4.6, [0, 1, 2, 3, 4]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 236, [0, 50, 100, 150, 200]),
        (0, 0.00007, [0, 0.00002, 0.00004, 0.00006]),
    ],
)
def test_ticks__are_round_and_within_the_axis(low: float, high: float, ticks: list[float]) -> None:
    assert Scale(low, high, 0, 100).ticks(5) == ticks


def test_ticks__of_epochs_are_whole() -> None:
    assert Scale(0, 2, 0, 100).ticks(6, whole=True) == [0, 1, 2]
    assert Scale(3, 3, 0, 100).ticks(6, whole=True) == [3]


def test_ticks__of_a_logarithmic_axis_are_few_over_any_range() -> None:
    assert Scale(3, 400, 0, 100, logarithmic=True).ticks(5) == [3, 10, 30, 100, 300]
    assert len(Scale(1, 10**9, 0, 100, logarithmic=True).ticks(5)) <= 6


def test_upwards__begins_at_zero_or_is_logarithmic_for_sizes_far_apart() -> None:
    near, far = (upwards(sizes, start=0, end=90, zero=False) for sizes in ([40, 200], [1, 1000]))

    assert (near(0), near(200), near.logarithmic) == (0, 90, False)
    assert [far(size) for size in (1, 10, 100, 1000)] == [0, 30, 60, 90]


def test_upwards__of_nothing_or_zeros_is_an_axis_still() -> None:
    for values in ([], [0.0, 0.0]):
        scale = upwards(values, start=100, end=0)
        assert (scale(0), scale(1)) == (100, 0)
