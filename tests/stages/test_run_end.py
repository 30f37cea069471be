from datetime import datetime, timedelta

import pytest

from stages.runs.run_end import RunEnd, clock_time


def test_after__counts_only_epochs_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("stages.runs.run_end.time.monotonic", lambda: now)
    end = RunEnd(epochs=4)
    now = 500.0
    end.begin_epochs()  # indexing does not count
    now = 501.0
    assert end.after(0, ran=False) is None, "a cached epoch says nothing about the others"
    now = 561.0

    found = end.after(1, ran=True)

    assert found is not None
    left = found - datetime.now().astimezone()
    assert left.total_seconds() == pytest.approx(120, abs=5)  # two more minutes; slow tests
    assert end.after(3, ran=True) is None, "the run has ended"


def test_clock_time__has_the_day_if_it_is_far() -> None:
    now = datetime.now().astimezone()
    soon, later = now + timedelta(hours=1), now + timedelta(days=2)

    assert clock_time(soon) == f"{soon:%H:%M}"
    assert clock_time(later).endswith(f"{later:%b %H:%M}")
