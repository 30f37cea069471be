"""What the program wrote lies among the pictures, and is not taken for pictures."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prefect.logging import disable_run_logger

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.own_output import is_own_table, kind_of_folder
from deepcluster_core.context import Context
from deepcluster_core.data.sources import open_source
from deepcluster_core.errors import ConfigError, SourceError
from flows.engine.evaluation import ready
from flows.engine.open_run import open_run
from flows.show.diff import show_diff
from flows.show.overview import draw_overview
from flows.show.page import write_page
from flows.show.sweep_table import write_comparison
from flows.show.sweep_values import evaluated
from stages.runs.evaluation_request import EvaluationRequest
from stages.runs.folder import RunFolder
from stages.runs.new_images import assign, embed
from stages.runs.sweep_plan import plan
from tests.support.recipes import write_small_recipe
from tests.support.refusals import make

PICTURES = 40


@pytest.fixture(scope="module")
def littered(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> Path:
    """Return a folder of pictures with everything in it that the program writes."""
    source = shutil.copytree(small_source, tmp_path_factory.mktemp("littered") / "pictures")
    recipe = write_small_recipe(source.parent / "recipe.yaml", source)
    run = source / "runs/mine"
    make(recipe, run)
    draw_overview(RunFolder(run), num_epochs=1)
    write_page(RunFolder(run))
    _evaluate_filters(run, out=None)
    _evaluate_filters(run, out=source / "filters")
    _sweep(recipe, source / "sweep")
    assign(str(run), source, out=source / "assigned.parquet")
    embed(str(run), source, out=source / "embedded.zarr")
    embed(str(run), source, out=source / "bar/embedded.parquet")
    labels = run / "labels/epoch=0000/labels.parquet"
    assigned, diff = str(source / "assigned.parquet"), source / "diff.parquet"
    show_diff(str(labels), assigned, from_epoch=None, to_epoch=None, out=diff, limit=1)
    for table in ("labels/epoch=0000/labels", "metrics/epoch=0000/metrics", "images/index"):
        shutil.copy(run / f"{table}.parquet", source)
    return source


def _evaluate_filters(run: Path, out: Path | None) -> None:
    request = EvaluationRequest(name="filters", run=str(run), epoch=0, out=out and str(out))
    with disable_run_logger():
        job = ready(request).job
    job.run(Context(seed=job.seed, epoch=0))


def _sweep(recipe: Path, root: Path) -> None:
    ks = (3, 4)
    for k in ks:
        changed = recipe.with_name(f"k{k}.yaml")
        changed.write_text(recipe.read_text().replace("k: 4", f"k: {k}"))
        make(changed, root / f"k={k:05d}")
    planned = plan(str(recipe), ks, str(root), None, {})
    write_comparison(planned, evaluated(planned))


def test_folder_source__finds_the_pictures_alone(littered: Path) -> None:
    assert len(list(littered.rglob("*.png"))) > PICTURES / 2 + 4, "overview, sweep and filters"
    source = open_source(littered)
    images = list(source.images())
    assert len(images) == source.count() == PICTURES
    assert {image.label for image in images} == {"bar", "cross", "disc", "square"}
    (note,) = [one for one in source.notes() if one.startswith("left out: ")]
    for name in ("filters/ (artifact)", "runs/mine/ (run)", "sweep/ (sweep)"):
        assert name in note


def test_fingerprint__is_that_of_the_pictures(littered: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    for image in open_source(littered).images():
        (clean / image.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(littered / image.path, clean / image.path)
    assert open_source(clean).fingerprint() == open_source(littered).fingerprint()


@pytest.mark.parametrize("name", ["plain", "link", "dots"])
def test_run__in_its_own_source_finds_everything_done_and_warns(
    name: str, littered: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(littered)
    path = {
        "plain": littered / "runs/mine",
        "link": tmp_path / "link/runs/mine",
        "dots": littered / "bar/../runs/mine",
    }[name]
    said: list[str] = []
    for update in (False, True):
        with disable_run_logger(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("flows.engine.report.FlowReport.warn", lambda _, text: said.append(text))
            opened = open_run(
                str(littered.parent / "recipe.yaml"), str(path), None, None, update=update
            )
        manifest = read_manifest(opened.folder.artifact("images", None))
        assert manifest.inputs["source"] == opened.source_fingerprint
    assert len(said) == 2
    assert "lies in the folder of its own images" in said[0]


@pytest.mark.parametrize("inside", ["runs/mine/evaluations/filters/epoch=0000", "embedded.zarr"])
def test_open_source__of_an_artifact_is_refused(inside: str, littered: Path) -> None:
    with pytest.raises(SourceError, match=r"of this program[\s\S]*Fix:"):
        open_source(littered / inside)


def test_open_source__of_runs_alone_says_what_does_not_count(littered: Path) -> None:
    with pytest.raises(SourceError, match=r"own results do not count \(mine/ \(run\)\)"):
        open_source(littered / "runs")


def test_folder_source__that_is_the_run_itself(littered: Path, tmp_path: Path) -> None:
    both = shutil.copytree(littered / "runs/mine", tmp_path / "both")
    for label in ("bar", "disc"):
        shutil.copytree(littered / label, both / label)
    source = open_source(both)
    assert {image.label for image in source.images()} == {"bar", "disc"}, "not overview.png"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("_manifest.json", '{"stage": "index", "files": []}'),
        ("_manifest.json", "no json"),
        ("config.yaml", "dataset: {source: .}\ntrain: {}\nseed: 3\n"),
        ("config.yaml", "theme: dark\n"),
        ("_unfinished", "a note\n"),
        ("zarr.json", '{"node_type": "group"}'),
    ],
)
def test_folder_source__takes_what_only_looks_like_ours(
    name: str, text: str, tmp_path: Path, small_source: Path
) -> None:
    source = shutil.copytree(small_source, tmp_path / "source")
    (source / "bar" / name).write_text(text)
    (source / "bar/images").mkdir()  # as in a run
    found = open_source(source)
    assert sum(1 for _ in found.images()) == PICTURES
    assert [note for note in found.notes() if note.startswith("left out: ")] == []


def test_run_folder__of_another_version_is_known_by_its_configuration(littered: Path) -> None:
    run = littered / "runs/mine"
    assert kind_of_folder(run) == "run"
    assert kind_of_folder(run / "images") == "artifact"
    assert kind_of_folder(littered / "sweep") == "sweep"
    assert kind_of_folder(littered / "bar") is None


def test_is_own_table__by_metadata_or_columns(littered: Path, tmp_path: Path) -> None:
    for path in littered.rglob("*.parquet"):
        assert is_own_table(path), path
    foreign = tmp_path / "foreign.parquet"
    for frame in (
        pd.DataFrame({"path": ["a"], "label": ["b"]}),
        pd.DataFrame({"image_id": [1], "path": ["a"], "cluster": [1], "image": [b"x"]}),
    ):
        frame.to_parquet(foreign)
        assert not is_own_table(foreign)
    foreign.write_bytes(b"damaged")
    assert not is_own_table(foreign)


@pytest.fixture
def ambiguous(tmp_path: Path, small_source: Path) -> Path:
    """Return a folder of pictures with a Parquet file of one more beside them."""
    source = shutil.copytree(small_source, tmp_path / "ambiguous")
    pq.write_table(pa.table({"image": [_picture(tmp_path / "x.png")]}), source / "more.parquet")
    return source


def _picture(path: Path) -> bytes:
    Image.fromarray(np.full((20, 24, 3), 80, np.uint8)).save(path)
    return path.read_bytes()


@pytest.fixture
def commands(littered: Path, tmp_path: Path) -> list[Callable[..., pd.DataFrame]]:
    """Return assign and embed: of a source and options to the table that they write."""

    def using(command: Callable[..., None], name: str) -> Callable[..., pd.DataFrame]:
        def written(source: Path, **options: str) -> pd.DataFrame:
            out = tmp_path / name / f"{len(os.listdir(tmp_path))}.parquet"  # noqa: PTH208
            shutil.rmtree(out.parent, ignore_errors=True)
            command(str(littered / "runs/mine"), source, out=out, **options)
            return pd.read_parquet(out)

        return written

    return [using(assign, "assigned"), using(embed, "embedded")]


def test_assign_and_embed__take_the_kind_that_the_advice_names(
    ambiguous: Path, commands: list[Callable[..., pd.DataFrame]]
) -> None:
    for command in commands:
        with pytest.raises(SourceError, match=r"could be of kind parquet or folder[\s\S]*--kind"):
            command(ambiguous)
        assert len(command(ambiguous, kind="folder")) == PICTURES
        assert len(command(ambiguous, kind="parquet")) == 1
        with pytest.raises(ConfigError, match="choose from auto, folder, list, parquet, tar"):
            command(ambiguous, kind="pictures")


def test_assign_and_embed__take_a_single_picture(
    littered: Path, commands: list[Callable[..., pd.DataFrame]]
) -> None:
    picture = next(littered.glob("disc/*.jpg"))
    for command in commands:
        assert command(picture)["path"].tolist() == [picture.name]


def test_shards__without_tables_of_ours(ambiguous: Path, littered: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    shutil.copy(ambiguous / "more.parquet", shards)
    shutil.copy(littered / "assigned.parquet", shards)
    assert open_source(shards).count() == 1


def test_index__counts_what_is_left_out(littered: Path, tmp_path: Path, small_source: Path) -> None:
    source = shutil.copytree(small_source, tmp_path / "source")
    shutil.copytree(littered / "runs/mine", source / "old")
    run = tmp_path / "run"
    make(write_small_recipe(tmp_path / "recipe.yaml", source), run)
    facts = json.loads((run / "images/_manifest.json").read_text())["facts"]
    assert facts["notes"] == ["left out: 1 folder of this program's own results: old/ (run)"]
