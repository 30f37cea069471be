"""Remarks on recipes that fit together, but may not do what is expected of them."""

import re
from pathlib import Path
from typing import Any

import pytest

from deepcluster import run_epochs
from stages.runs.recipe import read_recipe
from stages.runs.recipe_remarks import recipe_remarks
from tests.support.recipes import PLAIN, write, write_small_recipe

BANK = {"prototypes": {"bank": True}}


def remarks_on(path: Path, train: dict[str, Any], num_images: int, **keys: int) -> list[str]:
    _, recipe = read_recipe(write(path, PLAIN), {"train": train} | keys)
    return list(recipe_remarks(recipe, num_images))


def test_recipe_remarks__bank_whose_rows_become_old(path: Path) -> None:
    (found,) = remarks_on(path, BANK, 1000)

    assert found.startswith("train.prototypes.bank with train.balance: sample: images of large")
    assert remarks_on(path, BANK | {"balance": "none"}, 1000) == []
    assert remarks_on(path, BANK | {"balance": "weigh"}, 1000) == []
    assert remarks_on(path, {"prototypes": {}}, 1000) == []
    assert remarks_on(path, BANK, 1000, epochs=0) == []


def test_recipe_remarks__area_of_the_only_view_beside_views(path: Path) -> None:
    views = {"views": [{"count": 2, "size": 16, "area": [0.3, 1]}], "prototypes": {}}

    (found,) = remarks_on(path, views | {"crop_area": [0.5, 1]}, 1000)

    assert found.startswith("train.crop_area: [0.5, 1.0] is not read with train.views")
    assert remarks_on(path, views | {"crop_area": [0.08, 1.0]}, 1000) == []
    assert remarks_on(path, {"crop_area": [0.5, 1]}, 1000) == []


@pytest.mark.parametrize(
    ("average", "steps", "wanted"),
    [
        (0.999, 100, "90% of the averaged weights .*train.average=0.977"),
        (0.999, 692, "50% of the averaged weights"),
        (0.999, 693, None),
        (0.99, 150, None),
        (0.5, 1, None),
    ],
)
def test_recipe_remarks__average_that_is_mostly_the_first_weights(
    average: float, steps: int, wanted: str | None, path: Path
) -> None:
    train = {"average": average, "batch_size": 10, "reassign_every": 1.0}

    found = remarks_on(path, train, 10 * steps)

    if wanted is None:
        assert found == []
    else:
        (text,) = found
        assert f"after the {steps} steps of an epoch" in text
        assert re.search(wanted, text)


def test_run__reports_remarks_on_its_recipe(
    tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = "{batch_size: 32, average: 0.999}"
    recipe = write_small_recipe(tmp_path / "tiny.yaml", tiny_images, train=train)

    run_epochs(recipe, tmp_path / "run", echo=True)
    printed = " ".join(capsys.readouterr().out.split())
    run_epochs(recipe, tmp_path / "run", echo=True)

    assert printed.count("warning: train.average: after the 8 steps of an epoch, 99%") == 1
    assert "train.average" not in capsys.readouterr().out, "nothing is left to do"
