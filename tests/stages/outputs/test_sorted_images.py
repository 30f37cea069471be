"""Folders of images, a folder for each cluster."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import deepcluster
from deepcluster_core.errors import ArtifactError, ConfigError
from stages.runs.cluster_names import name_cluster
from stages.runs.image_facts import ImageFacts
from stages.runs.outputs import sorted_images
from stages.runs.outputs.origin import belonging
from stages.runs.outputs.sorted_images import SortRequest, cluster_place, safe_name, sort_images
from stages.runs.past_run import PastRun
from tests.support.recipes import write_recipe


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_sort_images__copies_each_original_once(
    past: PastRun, pictures: Path, tmp_path: Path
) -> None:
    found = sort_images(past, tmp_path / "out", SortRequest())

    assert found.num_images == 241
    assert found.num_decoded == 0
    table = pd.read_parquet(tmp_path / "out" / "images.parquet")
    assert sorted(table["image_id"]) == [*range(241)]
    assert len(files(tmp_path / "out")) == 242
    for row in table.to_dict("records"):
        copy = tmp_path / "out" / row["file"]
        assert copy.parent.name == str(row["cluster"])
        assert copy.read_bytes() == (pictures / row["path"]).read_bytes()
        assert copy.stat().st_nlink == 1
    assert belonging(tmp_path / "out" / "images.parquet").artifacts == ["labels of epoch 1"]


def test_sort_images__links_are_the_same_files(past: PastRun, tmp_path: Path) -> None:
    sort_images(past, tmp_path / "out", SortRequest("link"))

    images = [path for path in files(tmp_path / "out") if path.suffix != ".parquet"]
    assert {path.stat().st_nlink for path in images} == {2}


def test_sort_images__links_to_pictures_that_are_relative_links_can_be_opened(
    past: PastRun, pictures: Path, tmp_path: Path
) -> None:
    for path in files(pictures):
        link = tmp_path / "linked" / path.relative_to(pictures)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(path, link.parent))
    dataset = past.recipe.dataset.model_copy(update={"source": tmp_path / "linked"})
    of_links = replace(past, recipe=past.recipe.model_copy(update={"dataset": dataset}))

    sort_images(of_links, tmp_path / "out", SortRequest("link"))

    images = [path for path in files(tmp_path / "out") if path.suffix != ".parquet"]
    assert len(images) == 241, "`files` leaves out links that lead nowhere"
    assert min(path.stat().st_nlink for path in images) >= 2


def test_sort_images__links_that_cannot_be_made_are_copies(
    past: PastRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_another_disk(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", on_another_disk)
    sort_images(past, tmp_path / "out", SortRequest("link", per_cluster=1))

    images = [path for path in files(tmp_path / "out") if path.suffix != ".parquet"]
    assert {path.stat().st_nlink for path in images} == {1}


@pytest.mark.parametrize("farthest", [False, True])
def test_sort_images__some_of_each_cluster(farthest: bool, past: PastRun, tmp_path: Path) -> None:
    sort_images(past, tmp_path / "out", SortRequest(per_cluster=2, farthest=farthest))

    table = pd.read_parquet(tmp_path / "out" / "images.parquet")
    labels = ImageFacts.of(past, None).labels
    for cluster, rows in table.groupby("cluster"):
        distances = np.sort(labels.distance_N[labels.cluster_N == cluster])
        wanted = distances[::-1][:2] if farthest else distances[:2]
        assert rows["distance"].tolist() == wanted.tolist()


def test_sort_images__lists_of_paths(own_run: Path, pictures: Path, tmp_path: Path) -> None:
    past = PastRun.open(str(own_run))
    name_cluster(past.folder, epoch=1, cluster=3, name="red / blue: round?")

    sort_images(past, tmp_path / "out", SortRequest("list", per_cluster=4))

    lines = (tmp_path / "out" / "3-red___blue__round_.txt").read_text().splitlines()
    assert 1 <= len(lines) <= 4
    assert all(Path(line).is_relative_to(pictures) and Path(line).is_file() for line in lines)


def test_sort_images__originals_that_are_gone_are_decoded(pictures: Path, tmp_path: Path) -> None:
    source = shutil.copytree(pictures, tmp_path / "source")
    recipe = write_recipe(tmp_path / "gone.yaml", source, epochs="0")
    run = deepcluster.run_epochs(recipe, tmp_path / "gone", echo=False)
    shutil.rmtree(source / "bar")

    found = sort_images(run.past, tmp_path / "out", SortRequest())

    assert found.num_decoded == 60
    table = pd.read_parquet(tmp_path / "out" / "images.parquet").set_index("image_id")
    decoded = tmp_path / "out" / str(table.loc[0, "file"])
    assert decoded.suffix == ".png"
    np.testing.assert_array_equal(np.asarray(Image.open(decoded)), run.image(0)[..., 0])


def test_sort_images__refuses_places_where_it_would_do_harm(
    own_run: Path, pictures: Path, tmp_path: Path
) -> None:
    past = PastRun.open(str(own_run))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")

    harmful = (tmp_path / "full", tmp_path / "file", own_run / "out", pictures / "out")
    for place in (*harmful, tmp_path / "link"):
        with pytest.raises(ConfigError, match=r"--out(.|\n)*Fix:"):
            sort_images(past, place, SortRequest(per_cluster=1))
    sort_images(past, tmp_path / "empty", SortRequest(per_cluster=1))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_sort_images__after_an_interruption_begins_again(
    past: PastRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sort_images(past, tmp_path / "out", SortRequest(), progress=interrupt)
    assert not list(tmp_path.iterdir())

    left = tmp_path / ".out.part"  # as after kill -9
    left.mkdir()
    (left / "old").touch()
    sort_images(past, tmp_path / "out", SortRequest(per_cluster=1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "old").exists()


def test_sort_images__no_room_for_copies(
    past: PastRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(sorted_images.shutil, "disk_usage", lambda _: usage)

    with pytest.raises(ConfigError, match=r"are free(.|\n)*--link"):
        sort_images(past, tmp_path / "out", SortRequest())
    sort_images(past, tmp_path / "out", SortRequest("link"))


def test_sort_images__a_folder_that_may_not_be_written(past: PastRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ArtifactError, match=r"Fix:"):
        sort_images(past, tmp_path / "file" / "out", SortRequest(per_cluster=1))


def test_cluster_place__sorts_as_text() -> None:
    assert cluster_place(7, k=100, name=None) == "07"
    assert cluster_place(7, k=1000, name="Katzen & Hunde") == "007-Katzen___Hunde"


@pytest.mark.parametrize(
    ("name", "safe"),
    [("../x", "_x"), ("猫", "猫"), ("a\\b:c*", "a_b_c_"), ("...", "_"), ("é" * 200, "é" * 60)],
)
def test_safe_name__keeps_letters_alone(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_sort_images__bands_become_pictures(past: PastRun, tmp_path: Path) -> None:
    request = SortRequest(per_cluster=1, bands=(1, 1, 1))

    found = sort_images(past, tmp_path / "out", request)

    table = pd.read_parquet(tmp_path / "out" / "images.parquet")
    images = ImageFacts.of(past, None).images
    assert found.num_decoded == len(table)
    for file, image_id in zip(table["file"], table["image_id"], strict=True):
        with Image.open(tmp_path / "out" / file) as picture:
            assert picture.mode == "RGB"
            pixels_HWC = images[image_id]
            np.testing.assert_array_equal(np.asarray(picture), pixels_HWC.repeat(3, axis=2))


@pytest.mark.parametrize(
    ("bands", "message"),
    [((1, 2), "shows one or three"), ((2,), "the bands 1 to 1"), ((0, 1, 1), "the bands 1 to 1")],
)
def test_sort_images__bands_that_there_are_not(
    bands: tuple[int, ...], message: str, past: PastRun, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"--bands .*{message}(.|\n)*Fix:"):
        sort_images(past, tmp_path / "out", SortRequest(bands=bands))
    assert not (tmp_path / "out").exists()
