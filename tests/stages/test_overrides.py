"""`--set KEY=VALUE`: the text is read by the type of the key."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from deepcluster_core.config import keys_of
from deepcluster_core.config_overrides import parse_assignments
from deepcluster_core.config_yaml import dump, merged, read_yaml
from deepcluster_core.errors import ConfigError
from deepcluster_core.training.config import ScheduleConfig
from stages.evaluations.knn import KnnConfig
from stages.evaluations.maximal import MaximalConfig
from stages.evaluations.retrieval import RetrievalConfig
from stages.runs.recipe import Recipe, RecipeOverrides, load_recipe, parse_overrides, read_recipe
from tests.support.recipes import PLAIN, write

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@settings(deadline=None, max_examples=50)
@given(name=NAMES)
def test_parse_overrides__any_name_of_a_folder_arrives_as_that_folder(name: str) -> None:
    with TemporaryDirectory() as root:
        folder = Path(root, name)
        folder.mkdir()
        recipe = write(Path(root, "a recipe of this test"), PLAIN)

        changes = parse_overrides([f"dataset.source={root}/{name}"])
        through_flow = RecipeOverrides.model_validate(changes).model_dump(
            mode="json", exclude_unset=True
        )

        found = load_recipe(recipe, through_flow).dataset.source
        assert str(found) == str(folder)
        assert isinstance(found, Path)
        assert found.samefile(folder)


ODD = [
    "pics #2",
    "a: b",
    "2024",
    "no",
    "[v1]",
    "&co",
    "*best*",
    "!x",
    "1e5",
    "100%",
    "it's",
    "null",
    "{a}",
    '"quoted"',
    " blanks ",
    "a=b",
    "a\tb\nc",
    "true",
    "010",
    "2024-01-31T10:00:00Z",
    "%T",
    "é",
    "é",
    "|",
    ">",
    "- a",
    "? a",
    "@x",
    "`x`",
    "'",
    "#",
    "=",
    "<<",
    "---",
    "...",
    "\\",
]


@pytest.mark.parametrize("name", ODD)
def test_parse_overrides__relative_paths_are_taken_literally(
    name: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    recipe = load_recipe(path, parse_overrides([f"dataset.source={name}"]))

    assert str(recipe.dataset.source) == f"{tmp_path}/{name}"


@pytest.mark.parametrize("name", [*ODD, "~", "on"])
def test_parse_overrides__texts_are_taken_literally(name: str) -> None:
    expected = {"network": {"name": name}}

    assert parse_overrides([f"network.name={name}"]) == expected


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("extract.layer=null", None),
        ("extract.layer=no", "no"),
        ("images=null", None),
        ("images=./null", "./null"),
        ("images=~", "~"),
        ("keep.features=null", None),
        ("keep.features=~", None),
        ("cluster.whiten=no", False),
        ("cluster.whiten=True", True),
        ("cluster.k=auto", "auto"),
        ("cluster.k='auto'", "auto"),
        ("cluster.k= 5 ", 5),
        ("train.lr=1e-5", 1e-5),
        ("train.lr=.5", 0.5),
        ("train.lr=3", 3),
        ("network.mean=null", None),
        ("network.mean=[0.5]", [0.5]),
        ("dataset.kind=list", "list"),
    ],
)
def test_parse_overrides__other_values_are_read_as_in_a_recipe(
    assignment: str, value: object
) -> None:
    (section,) = parse_overrides([assignment]).values()
    (found,) = section.values() if isinstance(section, dict) else (section,)

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["1_000", "0x10", "1e5", "010", "1:30", "0b1", "5 # five", "5.0", "\u0665", "", "null", "~"],
)
def test_load_recipe__integers_are_not_converted(text: str, path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 problem\n  cluster.k: Input should be a valid int"):
        load_recipe(path, parse_overrides([f"cluster.k={text}"]))


def test_load_recipe__another_notation_of_a_number_is_explained(path: Path) -> None:
    text = "cluster.pca_dim: Input should be a valid integer in plain decimal digits, or 'auto'"

    with pytest.raises(ConfigError, match=text):
        load_recipe(path, parse_overrides(["cluster.pca_dim=0x10"]))


@pytest.mark.parametrize(
    "assignment",
    [
        "cluster.options.x=3 # three",
        "cluster.options.x=#ff0000",
        "train.crop_area=[0.5, 1] # wide",
        "train.crop_area=[0.5, # least\n1]",
        "cluster={k: 5} # few",
    ],
)
def test_parse_overrides__a_comment_is_not_cut_off(assignment: str) -> None:
    with pytest.raises(ConfigError, match="begins a comment, which would be cut off"):
        parse_overrides([assignment])


@pytest.mark.parametrize("text", ["'a # b'", '"#ff0000"', "a#b", "[a#b, '# c']"])
def test_parse_overrides__a_sign_in_quotes_or_a_word_is_no_comment(text: str) -> None:
    assert "#" in str(parse_overrides([f"cluster.options.x={text}"]))


def test_parse_overrides__bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set images=/\\xff: is not valid UTF-8"):
        parse_overrides(["images=/\udcff"])


def test_load_recipe__wrong_keys_and_values_of_set_are_reported_together(path: Path) -> None:
    assignments = ["cluster.kk=[1", "sed=3", "cluster.k=010", "cluster.pic.alpha.x=3", "train=5"]

    with pytest.raises(ConfigError, match="5 problems") as caught:
        load_recipe(path, parse_overrides(assignments))

    assert "cluster.kk: unknown key; known here: algorithm" in str(caught.value)


# Sections inside a section, which a recipe may leave out

NESTED: dict[str, tuple[dict[str, Any], str, Any]] = {
    "dataset.tile": ({"size": 32, "range": [0.0, 9.0]}, "size", 64),
    "extract.pca": ({"dim": 4, "sample": 20}, "sample", 10),
    "network.projection": ({"hidden": 8, "dim": 4}, "hidden", 16),
    "train.colour": ({"brightness": 0.5, "hue": 0.25}, "hue", 0.125),
    "train.blur": ({"probability": 0.25, "radius": [0.5, 1.0]}, "radius", [0.75, 1.5]),
    "train.noise": ({"probability": 0.25, "deviation": [0.5, 1.0]}, "probability", 0.75),
    "train.prototypes": ({"temperature": 0.5, "bank": True}, "temperature", 0.25),
    "train.schedule": ({"epochs": 9, "final_lr": 0.5}, "final_lr", 0.25),
    "train.lars": ({"trust": 0.5}, "trust", 0.25),
}
"""What a recipe has of each section, a key of it, and another value of the key."""


def test_nested__has_all_sections_that_may_be_left_out() -> None:
    found = {
        f"{section}.{key}"
        for section, part in Recipe.model_fields.items()
        if isinstance(part.annotation, type) and issubclass(part.annotation, BaseModel)
        for key, field in keys_of(part.annotation).items()
        for member in get_args(field.annotation)
        if isinstance(member, type) and issubclass(member, BaseModel)
    }

    assert found - {"train.views"} == set(NESTED)


@pytest.mark.parametrize("name", NESTED)
def test_recipe_overrides__one_key_of_a_nested_section_keeps_the_others(
    name: str, path: Path
) -> None:
    values, key, value = NESTED[name]
    section, nested = name.split(".")
    changes = {section: {nested: {key: value}}}
    with_section = {section: {nested: values}}
    # The keys that this section needs in others are not what is tested.
    recipe = write(path, dump(merged(read_yaml(write(path, PLAIN)), with_section)))

    assert parse_overrides([f"{name}.{key}={value}"]) == changes
    through_flow = RecipeOverrides.model_validate(changes).model_dump(
        mode="json", exclude_unset=True
    )

    assert through_flow == changes
    _, changed = read_recipe(recipe, through_flow)
    found = changed.model_dump(mode="json")[section][nested]
    assert {one: found[one] for one in values} == values | {key: value}


def test_recipe_overrides__a_nested_section_can_be_left_out() -> None:
    changes = parse_overrides(["train.schedule=null"])

    overrides = RecipeOverrides.model_validate(changes)

    assert overrides.model_dump(mode="json", exclude_unset=True) == {"train": {"schedule": None}}


def test_load_recipe__merges_an_override_with_the_schedule_of_a_recipe(path: Path) -> None:
    write(path, PLAIN.replace("{lr: 0.1}", "{lr: 0.1, schedule: {epochs: 600, start_lr: 0.0}}"))
    changes = parse_overrides(["train.schedule.final_lr=0.01"])
    through_flow = RecipeOverrides.model_validate(changes).model_dump(
        mode="json", exclude_unset=True
    )

    schedule = load_recipe(path, through_flow).train.schedule

    assert schedule == ScheduleConfig(epochs=600, final_lr=0.01)


# A protocol's keys


@pytest.mark.parametrize(
    ("kind", "assignment", "expected"),
    [
        (KnnConfig, "layer=no", {"layer": "no"}),
        (KnnConfig, "ks=[1, 5]", {"ks": [1, 5]}),
        (KnnConfig, "resize=auto", {"resize": "auto"}),
        (MaximalConfig, "filters=3", {"filters": 3}),
        (MaximalConfig, "filters=[3, 4]", {"filters": [3, 4]}),
        (MaximalConfig, "layers=auto", {"layers": "auto"}),
        (RetrievalConfig, "whiten_with=/x/a #2", {"whiten_with": "/x/a #2"}),
        (RetrievalConfig, "whiten_with=null", {"whiten_with": None}),
    ],
)
def test_parse_assignments__of_a_protocol(
    kind: Any,  # noqa: ANN401  one of several classes
    assignment: str,
    expected: dict[str, Any],
) -> None:
    assert parse_assignments([assignment], kind) == expected


def test_retrieval_config__refuses_a_url() -> None:
    with pytest.raises(ValidationError, match="address of a remote place"):
        RetrievalConfig.model_validate_json('{"whiten_with": "s3://bucket/images"}')
