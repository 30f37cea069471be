import math

import pytest

from deepcluster_core.text import (
    duration,
    last_epochs,
    listed,
    number,
    printable_lines,
    readable_size,
    share,
    without_credentials,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),  # shown backwards otherwise
        ("caf\udce9.png", r"caf\udce9.png"),  # a name that is not UTF-8
        ("Zürich 東京\nnext", "Zürich 東京\nnext"),
    ],
)
def test_printable_lines__any_text_can_be_shown_and_written(text: str, shown: str) -> None:
    assert printable_lines(text) == shown
    assert printable_lines(text).encode()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "inf"),
        (10_000, "10,000"),
        (96.5, "96.5"),
        (97.0, "97"),
        (0.7727978, "0.773"),
        (0.00012, "0.00012"),
        (57803.46, "57,803"),
        (True, "True"),
        ("kmeans", "kmeans"),
    ],
)
def test_number__has_few_digits(value: object, shown: str) -> None:
    assert number(value) == shown


def test_last_epochs__one_is_not_counted() -> None:
    assert [last_epochs(count) for count in (1, 4)] == ["the epoch before", "the 4 epochs before"]


def test_share__small_ones_have_a_decimal() -> None:
    assert [share(value) for value in (None, math.nan, 0.0168, 0.3788, 1.0)] == [
        "–",
        "–",
        "1.7%",
        "38%",
        "100%",
    ]


def test_duration__in_units_that_people_say() -> None:
    assert [duration(s) for s in (0.04, 96, 1800, 3600 * 30 + 125)] == [
        "0.0 s",
        "1 min 36 s",
        "30 min",
        "30 h 2 min",
    ]


def test_readable_size__has_three_digits() -> None:
    assert [readable_size(size) for size in (3, 4_194_305, 123_456_789, 5e12)] == [
        "3 B",
        "4.19 MB",
        "123 MB",
        "5 TB",
    ]


def test_listed__counts_what_it_leaves_out() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"], limit=2) == "a, b"
    assert listed(["a", "b", "c", "d"], limit=2) == "a, b and 2 more"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no http://user:p@ss@host/a@b here", "no http://host/a@b here"),
        ("json://token@host and mailto://me:x@y.org", "json://host and mailto://y.org"),
        ("me@here.org", "me@here.org"),
    ],
)
def test_without_credentials__leaves_the_host(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
