from decimal import Decimal

import pytest

from deepcluster_core.data.sources.labels import label_in_json, label_of


@pytest.mark.parametrize(
    "cell",
    [None, "", "  ", "nan", "NaN", "NULL", "<NA>", "#N/A", float("nan"), Decimal("nan"), b" \n"],
)
def test_label_of__missing(cell: object) -> None:
    assert label_of(cell) is None


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (" cat\n", "cat"),
        ("none", "none"),
        ("NA", "NA"),
        ("1.0", "1.0"),
        (1.0, "1"),
        (-2, "-2"),
        (0.5, "0.5"),
        (float("inf"), "inf"),
        (Decimal("7.00"), "7"),
        (True, "True"),
        (b"caf\xe9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_label_of__value(cell: object, expected: str) -> None:
    assert label_of(cell) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"label": 3, "class": 4}', "3"),
        ('{"class": null, "Category_ID": 4}', "4"),
        ('{"label": {"id": 3, "name": "cat"}}', "cat"),
        ('{"a": {"b": {"label": 3}}}', None),
        ('{"a": {"label": 3}, "labels": [1, 2]}', "3"),
        ('{"label": NaN}', None),
        ('"cat"', "cat"),
        ("[3]", "3"),
        ("[]", None),
        ("[{}]", None),
    ],
)
def test_label_in_json__finds_the_class(text: str, expected: str | None) -> None:
    assert label_in_json(text) == expected


@pytest.mark.parametrize("text", ["", "{", "[" * 10_000, b"\xff"])
def test_label_in_json__is_not_json(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        label_in_json(text)
