from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from benchmarks import overhead_sides
from benchmarks.overhead_sides import Meter


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(overhead_sides, "time", SimpleNamespace(perf_counter=made.perf_counter))
    return made


def test_meter__calls_and_items_are_compute(clock: Clock) -> None:
    meter = Meter()

    def items() -> Iterator[int]:
        for number in range(2):
            clock.work(3)
            yield number

    meter.call(clock.work)(5)
    assert meter.compute_s == 5
    for _ in meter.items(items, 1)():
        clock.work(100)  # what is done with an item is not
    assert meter.compute_s == 5 + 2 * 3
    list(meter.items(items, -1)())  # reading, within a call that counts as compute
    assert meter.compute_s == 5


def test_meter__measures_a_stage_but_for_its_compute(clock: Clock) -> None:
    meter = Meter()

    def make(_: object, seconds: float) -> None:
        clock.work(seconds)
        meter.call(clock.work)(50)

    measured = meter.stage_body(make)
    measured(SimpleNamespace(name="train"), 2)
    measured(SimpleNamespace(name="train"), 1)

    assert meter.outside_s == {"train": 3}


def test_meter__what_no_stage_did_lies_between() -> None:
    meter = Meter()
    meter.marks = [
        # The end of the first epoch, which reads no checkpoint and does not count.
        (10.0, 8.0, {"train": 1.0, "score": 0.5}),
        (20.0, 16.0, {"train": 2.5, "score": 0.6}),
    ]

    figures = meter.figures()

    assert figures["added_s"] == pytest.approx(2.0)
    assert figures["train_s"] == pytest.approx(1.5)
    assert figures["between_s"] == pytest.approx(2.0 - 1.5 - 0.1)
