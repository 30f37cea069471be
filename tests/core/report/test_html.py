import math

import pytest

from deepcluster_core.report.html import escaped, number, share, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a\"b'c&d", "a&quot;b&#x27;c&amp;d"),
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),  # shown backwards otherwise
        ("caf\udce9.png", r"caf\udce9.png"),  # a name that is no UTF-8
        ("Zürich 東京\nnext", "Zürich 東京\nnext"),
    ],
)
def test_escaped__shows_any_text_as_it_is(text: str, shown: str) -> None:
    assert escaped(text) == shown
    assert escaped(text).encode()


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


def test_share__small_ones_have_a_decimal() -> None:
    assert [share(value) for value in (None, math.nan, 0.0168, 0.3788, 1.0)] == [
        "–",
        "–",
        "1.7%",
        "38%",
        "100%",
    ]


def test_table__escapes_what_it_holds() -> None:
    made = table(["<b>"], [["<i>"], [0.5]], name='"quoted"')

    assert "<b>" not in made
    assert "<i>" not in made
    assert 'aria-label="&quot;quoted&quot;"' in made
    assert "<td>0.500</td>" in made
