"""The text of a recipe -> plain values. What is refused: tests/faults/test_bad_recipes.py."""

import pytest

from deepcluster_core.config_yaml import MAX_VALUES, dump, parse


def test_parse__takes_aliases_that_people_write() -> None:
    text = "sizes: &sizes {a: 1, b: 2}\nmine: {<<: *sizes, b: 3}\nagain: [*sizes, *sizes]"

    values = parse(text)

    assert values["mine"] == {"a": 1, "b": 3}
    assert values["again"] == [{"a": 1, "b": 2}] * 2


def test_parse__gives_values_that_the_caller_may_change() -> None:
    text = "cluster: {k: [4, 8]}"
    parse(text)["cluster"]["k"].append(16)

    assert parse(text) == {"cluster": {"k": [4, 8]}}


def test_parse__counts_what_aliases_repeat() -> None:
    many = MAX_VALUES // 20
    long = f"long: &long [{'1, ' * many}]\n"

    assert len(parse(f"{long}all: [{'*long, ' * 18}]")["all"]) == 18
    with pytest.raises(ValueError, match=f"more than {MAX_VALUES:,} values in line 2"):
        parse(f"{long}all: [{'*long, ' * 20}]")


@pytest.mark.parametrize("text", ["😀", '"\\ud83d\\ude00"'])
def test_parse__joins_the_halves_that_json_writes(text: str) -> None:
    assert parse(text) == "😀"


def test_parse__says_where_a_value_is_not_of_its_kind() -> None:
    with pytest.raises(
        ValueError, match=r"'2024-13-45' is not a valid timestamp in line 2, column 4"
    ):
        parse("a: 1\nb: !!timestamp 2024-13-45")


@pytest.mark.parametrize("text", ["010", "-010", "1:30", "1:30.5", "2024-01-31", "="])
def test_parse__leaves_as_text_what_yaml_1_1_converts(text: str) -> None:
    assert parse(f"a: {text}") == {"a": text}, "a number of another base, or a date"


def test_parse__dates_with_a_time_keep_their_spelling() -> None:
    assert parse("2024-01-31T10:00:00Z") == "2024-01-31T10:00:00Z"


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("1_000", 1000), ("0x10", 16), ("-5", -5)])
def test_parse__takes_integers(text: str, number: int) -> None:
    assert parse(text) == number


@pytest.mark.parametrize(
    "text", ["1e5", "1e-5", ".5e3", "010", "1:30", "2024-01-31", "no", "~", "5", "0x10", "="]
)
def test_dump__puts_texts_in_quotes_that_look_like_other_types(text: str) -> None:
    assert parse(dump({"a": text})) == {"a": text}
