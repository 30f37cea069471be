"""Numbers that no data can give, and folders that hold what is not this run's."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from deepcluster_core.artifacts.commit import write_manifest
from deepcluster_core.artifacts.manifest import MANIFEST, Condition, inspect, read_manifest
from flows.epoch_loop import deepcluster
from flows.evaluate import evaluate
from flows.stage_rerun import rerun
from flows.sweep import sweep
from stages.cluster import cluster
from stages.train import train
from tests.support.program import PROGRAM
from tests.support.recipes import write_small_recipe
from tests.support.refusals import Refused, check_message, make, put
from tests.support.run_files import contents

EPOCH = "epoch=0000"


def refuse_numbers(
    sections: Mapping[str, str], told: str, refused: Refused, recipe: Path, source: Path, run: Path
) -> None:
    write_small_recipe(recipe, source, **sections)
    assert told in refused(lambda: make(recipe, run))


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"cluster": "{k: 41, pca_dim: 4}"}, "cluster.k: 41 needs at least 41 images, but there"),
        ({"cluster": "{k: 4, pca_dim: 40}"}, "cluster.pca_dim: 40 needs at least 41 images"),
        (
            {"cluster": "{k: 4, pca_dim: 4, algorithm: 'python:absent:A'}"},
            "the module absent does not exist",
        ),
        ({"compute": "{device: 'cuda:99'}"}, "compute.device: cuda:99 asked for, but this machine"),
    ],
    ids=str,
)
def test_run__refuses_numbers_before_anything_is_made(
    sections: Mapping[str, str], told: str, refused: Refused, small_source: Path, tmp_path: Path
) -> None:
    refuse_numbers(sections, told, refused, tmp_path / "bad.yaml", small_source, tmp_path / "run")

    assert not (tmp_path / "run").exists()


def equal(folder: Path) -> Path:
    """Forty pictures, all the same."""
    folder.mkdir()
    for number in range(40):
        Image.new("L", (16, 16), 100).save(folder / f"{number}.png")
    return folder


def of_two_kinds(folder: Path) -> Path:
    """Forty pictures of two shades of one gradient: their features differ in one direction."""
    folder.mkdir()
    for number in range(40):
        picture = Image.linear_gradient("L").resize((16, 16))
        picture.rotate(90 * (number % 2)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (equal, "all 40 feature rows are equal, so there is nothing to cluster"),
        (of_two_kinds, "cluster.pca_dim is 4, but the features vary in 1 directions only"),
    ],
)
def test_run__refuses_features_that_hardly_differ(
    build: Callable[[Path], Path], told: str, refused: Refused, tmp_path: Path
) -> None:
    refuse_numbers(
        {}, told, refused, tmp_path / "bad.yaml", build(tmp_path / "source"), tmp_path / "run"
    )

    assert inspect(tmp_path / "run/features" / EPOCH)[0] is Condition.WHOLE, "what was made stays"


def test_run__clusters_pictures_of_two_kinds_where_sizes_are_auto(tmp_path: Path) -> None:
    source = of_two_kinds(tmp_path / "source")
    recipe = write_small_recipe(tmp_path / "auto.yaml", source, cluster="{k: auto, pca_dim: auto}")

    make(recipe, tmp_path / "run", cluster)

    assert read_manifest(tmp_path / "run/labels" / EPOCH).facts["pca_dim"] == 1


@pytest.mark.parametrize(
    ("sections", "told", "whole"),
    [
        (
            {"network": "{name: smallnet, image_size: 16, sobel: false, std: [1.0e-38]}"},
            "40 of 40 feature rows are not finite, the first at row 0",
            "features",
        ),
        (
            {"train": "{batch_size: 16, lr: 1.0e+30}"},
            "the training loss is no longer finite",
            "labels",
        ),
    ],
    ids=["features", "loss"],
)
def test_run__refuses_numbers_that_are_none(
    sections: Mapping[str, str],
    told: str,
    whole: str,
    refused: Refused,
    small_source: Path,
    tmp_path: Path,
) -> None:
    refuse_numbers(sections, told, refused, tmp_path / "bad.yaml", small_source, tmp_path / "run")

    assert inspect(tmp_path / "run" / whole / EPOCH)[0] is Condition.WHOLE, "what was made stays"


# Folders that hold something else


@pytest.fixture
def own_run(earlier_run: Path, tmp_path: Path) -> Path:
    """Return a copy of a run, and of its recipe beside it, that a test may change."""
    shutil.copy(earlier_run.parent / "right.yaml", tmp_path)
    return shutil.copytree(earlier_run, tmp_path / "run")


def foreign_files(run: Path) -> None:
    shutil.rmtree(run / "images")
    put(run / "images", "holiday.jpg", b"the only copy")


def files_beside(run: Path) -> None:
    (run / "labels" / EPOCH / MANIFEST).unlink()
    put(run / "labels" / EPOCH, "thesis.tex", b"the only copy")


def of_another_stage(run: Path) -> None:
    shutil.copy(run / "features" / EPOCH / MANIFEST, run / "labels" / EPOCH)


def of_format_3(run: Path) -> None:
    path = run / "labels" / EPOCH / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3, "news": [1]}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (foreign_files, "run/images: the folder holds files that no stage made"),
        (files_beside, f"run/labels/{EPOCH}: the folder holds files that no stage made"),
        (of_another_stage, f"run/labels/{EPOCH}: the folder holds files that no stage made"),
        (of_format_3, f"run/labels/{EPOCH}/{MANIFEST}: has format 3, but this version of the"),
    ],
)
def test_run__leaves_alone_what_it_has_not_made(
    change: Callable[[Path], None], told: str, refused: Refused, own_run: Path
) -> None:
    change(own_run)
    before = contents(own_run)

    message = refused(lambda: make(own_run.parent / "right.yaml", own_run))

    assert told in message
    after = contents(own_run)
    assert {name: after[name] for name in before if name != "config.yaml"} == {
        name: found for name, found in before.items() if name != "config.yaml"
    }


def test_run__leaves_alone_a_folder_that_is_named_as_images(
    refused: Refused, small_source: Path, tmp_path: Path
) -> None:
    photos = put(tmp_path / "photos", "holiday.jpg", b"the only copy").parent
    recipe = write_small_recipe(tmp_path / "bad.yaml", small_source, images=f"'{photos}'")

    message = refused(lambda: make(recipe, tmp_path / "run"))

    assert f"{photos}: the folder holds files that no stage made" in message
    assert [path.name for path in photos.iterdir()] == ["holiday.jpg"]


def of_another_run(run: Path) -> None:
    """The manifest that a run with another seed would have here."""
    folder = run / "labels" / EPOCH
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"seed": 32, "key": "0" * 64}))


def not_json(run: Path) -> None:
    (run / "labels" / EPOCH / MANIFEST).write_bytes(b"\0" * 100)


@pytest.mark.parametrize("change", [of_another_run, not_json])
def test_run__makes_again_what_is_not_its_own(
    change: Callable[[Path], None], earlier_run: Path, own_run: Path
) -> None:
    change(own_run)

    make(own_run.parent / "right.yaml", own_run, train)

    made, wanted = (read_manifest(run / "labels" / EPOCH) for run in (own_run, earlier_run))
    assert (made.digest, made.key, made.seed) == (wanted.digest, wanted.key, wanted.seed)


@pytest.mark.slow
def test_program__refuses_an_input_of_a_later_version(own_run: Path) -> None:
    of_format_3(own_run)
    before = contents(own_run)

    ended = subprocess.run(
        [PROGRAM, "stage", "train", "--run", own_run, "--epoch", "0", "--force"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    check_message(ended.stderr)
    assert "has format 3" in ended.stderr
    after = contents(own_run)
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_program__refuses_a_broken_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(9):
        put(source, f"{number}.png", b"broken")
    recipe = write_small_recipe(tmp_path / "bad.yaml", source)

    ended = subprocess.run(
        [PROGRAM, "run", recipe, "--run", tmp_path / "run"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    check_message(ended.stderr)
    assert "9 of 9 images cannot be read" in ended.stderr


# What the server refuses before a run begins


@pytest.mark.parametrize(
    ("flow", "parameters", "told"),
    [
        (deepcluster, {"epochs": -1}, "-1 is less than the minimum of 0"),
        (deepcluster, {"epochs": "three"}, "'three' is not valid under any of the given schemas"),
        (deepcluster, {"recipe": 5}, "5 is not of type 'string'"),
        (deepcluster, {"overrides": {"clusters": {}}}, "'clusters' was unexpected"),
        (deepcluster, {"overrides": {"train": {"lr": "fast"}}}, "'fast' is not of type 'number'"),
        (rerun, {"stage": "trian"}, "'trian' is not one of"),
        (rerun, {"run": "demo"}, "'stage' is a required property"),
        (rerun, {"stage": "train", "epoch": -1}, "-1 is less than the minimum of 0"),
        (sweep, {"k": "many"}, "is not of type 'array'"),
        (evaluate, {"name": "knnn"}, "'knnn' is not one of"),
    ],
    ids=lambda value: value.name if isinstance(value, Flow) else str(value),
)
def test_deployments__refuse_wrong_parameters(
    flow: Any,  # noqa: ANN401  any Flow
    parameters: dict[str, Any],
    told: str,
) -> None:
    errors = validate(parameters, parameter_schema(flow.fn).model_dump_for_openapi())

    assert any(told in text for error in errors for text in _messages(error)), errors


def _messages(error: Any) -> list[str]:  # noqa: ANN401  jsonschema's
    return [error.message, *(text for below in error.context for text in _messages(below))]
