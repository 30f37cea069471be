from deepcluster_core.text import duration, listed


def test_listed__counts_what_it_leaves_out() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"], limit=2) == "a, b"
    assert listed(["a", "b", "c", "d"], limit=2) == "a, b and 2 more"


def test_duration__in_hours_minutes_and_seconds() -> None:
    assert [duration(seconds) for seconds in (0.04, 96, 1800, 3725.2)] == [
        "0 s",
        "1 min 36 s",
        "30 min",
        "1 h 2 min 5 s",
    ]
