"""Images that are chosen for a label, and images that are nearly equal."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import deepcluster
from deepcluster_core.errors import ArtifactError, ConfigError
from stages.runs.cluster_names import name_cluster
from stages.runs.outputs.duplicate_images import find_duplicates
from stages.runs.outputs.origin import belonging
from stages.runs.outputs.picked_images import pick_images
from stages.runs.past_run import PastRun
from tests.support.recipes import write_recipe

COPIES = {"disc/000.png", "disc/copy of 000.png"}


def test_pick_images__writes_what_it_returns(own_run: Path, tmp_path: Path) -> None:
    past = PastRun.open(str(own_run))
    name_cluster(past.folder, epoch=1, cluster=0, name="discs")
    for suffix in (".parquet", ".csv", ".txt"):
        picked = pick_images(past, 20, out=tmp_path / f"p{suffix}")

    paths = [one.path for one in picked.images]
    assert len(set(paths)) == 20
    assert not set(paths) >= COPIES, "one of two equal images is enough"
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert list(frame["path"]) == paths == (tmp_path / "p.txt").read_text().splitlines()
    assert list(pd.read_csv(tmp_path / "p.csv")["reason"]) == list(frame["reason"])
    assert set(frame["cluster_name"][frame["cluster"] == 0]) == {"discs"}
    assert any("cluster 0 (discs)" in one.why for one in picked.images)
    assert belonging(tmp_path / "p.csv").artifacts == ["labels of epoch 1"]
    assert picked.num_candidates == 241
    assert not picked.only_unlabelled


def test_pick_images__is_repeated_by_the_seed(past: PastRun) -> None:
    first, again, other = (pick_images(past, 12, seed=seed).images for seed in (5, 5, 6))

    assert first == again != other


def test_pick_images__images_without_a_label_first(pictures: Path, tmp_path: Path) -> None:
    lines = [f"{path},disc" for path in sorted(pictures.glob("disc/*"))]
    lines += [f"{path}," for path in sorted(pictures.glob("bar/*"))]
    source = tmp_path / "list.csv"
    source.write_text("\n".join(["path,label", *lines]))
    recipe = write_recipe(tmp_path / "some.yaml", source, epochs="0")
    run = deepcluster.run_epochs(recipe, tmp_path / "some", echo=False)

    picked = pick_images(run.past, 1000)

    assert picked.only_unlabelled
    assert picked.num_candidates == 60
    assert {Path(one.path).parent.name for one in picked.images} == {"bar"}


def test_find_duplicates__finds_a_copy(past: PastRun, tmp_path: Path) -> None:
    found = find_duplicates(past, threshold=0.99999, out=tmp_path / "d.csv")

    (group,) = found.groups
    assert {one.path for one in group} == COPIES
    assert found.num_surplus == 1
    frame = pd.read_csv(tmp_path / "d.csv")
    assert set(frame["path"]) == COPIES
    assert frame["group"].tolist() == [0, 0]


def test_find_duplicates__list_has_those_that_could_go(past: PastRun, tmp_path: Path) -> None:
    found = find_duplicates(past, threshold=0.99999, out=tmp_path / "d.txt")

    assert (tmp_path / "d.txt").read_text().splitlines() == [found.groups[0][1].path]


def test_find_duplicates__first_of_a_group_has_the_most_pixels_and_the_shortest_path(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(30):
        pixels = noise.integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"other {number}.png")
    pixels = noise.integers(0, 255, (8, 8, 3), np.uint8)
    original = Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST)
    for name in ("z.png", "z (copy).png"):
        original.save(folder / name)
    original.resize((32, 32), Image.Resampling.NEAREST).save(folder / "a.png")
    recipe = write_recipe(tmp_path / "r.yaml", folder, epochs="0")
    deepcluster.run_epochs(recipe, tmp_path / "run", echo=False)

    found = find_duplicates(PastRun.open(str(tmp_path / "run")), threshold=0.99)

    (group,) = (group for group in found.groups if "z.png" in {one.path for one in group})
    assert [one.path for one in group] == ["z.png", "z (copy).png", "a.png"]


def test_find_duplicates__threshold_is_suggested(past: PastRun) -> None:
    found = find_duplicates(past)

    assert found.threshold == found.suggested
    assert [*found.quantiles.values()] == sorted(found.quantiles.values())
    assert any({one.path for one in group} >= COPIES for group in found.groups)


def test_find_duplicates__none(past: PastRun, tmp_path: Path) -> None:
    found = find_duplicates(past, threshold=1, out=tmp_path / "d.parquet")

    if not found.groups:  # two equal images may differ in the last digit
        assert pd.read_parquet(tmp_path / "d.parquet").empty


def test_choices__wrong_file_and_deleted_features(own_run: Path, tmp_path: Path) -> None:
    past = PastRun.open(str(own_run))
    with pytest.raises(ConfigError, match=r"must end in \.parquet or \.csv or \.txt"):
        pick_images(past, 3, out=tmp_path / "p.xlsx")
    shutil.rmtree(own_run / "features")
    past = PastRun.open(str(own_run))
    for call in (lambda: pick_images(past, 3), lambda: find_duplicates(past)):
        with pytest.raises(ArtifactError, match="stage extract"):
            call()
