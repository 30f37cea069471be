"""The page of a run's report: what it says about finished, unfinished and odd runs."""

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deepcluster import images_from_frame
from deepcluster_core.artifacts.commit import prune
from deepcluster_core.artifacts.images import Images
from deepcluster_core.report.cluster_artifacts import read_assigned
from flows.show.page import write_page
from flows.show.page_inputs import MapOptions, key_pictures
from stages.runs.folder import RunFolder
from stages.runs.image_facts import ImageFacts
from stages.runs.past_run import PastRun
from stages.runs.recipe import load_recipe, save_recipe
from stages.runs.run_images import RunImages
from tests.support.plain_runs import make_run
from tests.support.recipes import write_recipe
from tests.support.report_pages import cards_of, evaluate, text_of


def page_of(run: Path, **options: int) -> str:
    settings: dict[str, Any] = options
    return write_page(RunFolder(run), **settings).read_text(encoding="utf-8")


def test_write_page__has_what_the_run_has(finished_run: Path, own_run: Path) -> None:
    page = page_of(own_run)
    said = text_of(page)

    assert "smallnet (16 px, Sobel filtered) learns from the 240 images of shapes" in said
    assert "3 of 3 epochs, seed 31" in said
    assert "shorter_side: 16" in said
    assert len(cards_of(page)) == 8, "all of them, as there are fewer than asked for"
    assert sum(int(size) for size in re.findall(r'data-size="(\d+)"', page)) == 240
    assert re.search(r"of epoch 1", said), "what became of the clusters"
    for name in ("disc", "square", "bar", "cross"):
        assert f"<b>{name}</b>" in page
    assert "NMI of the clusters" in said
    assert "torch " in said


def test_write_page__is_made_again_only_when_something_changed(own_run: Path) -> None:
    path = write_page(RunFolder(own_run))
    made = path.stat().st_mtime_ns
    prune(own_run / "checkpoints/epoch=0000")
    assert write_page(RunFolder(own_run)).stat().st_mtime_ns == made, "the page shows no weights"

    whole = path.read_bytes()
    prune(own_run / "features/epoch=0001")
    first = write_page(RunFolder(own_run)).read_bytes()
    assert first != whole, "the map has lost the places of an epoch"

    evaluate(own_run, "knn", 2)
    assert write_page(RunFolder(own_run)).read_bytes() != first
    shutil.rmtree(own_run / "evaluations")
    assert write_page(RunFolder(own_run)).read_bytes() == first, "the same run, the same page"


def about_map(page: str) -> dict[str, Any]:
    found = re.search(r'<template id="map-data" data-about="([^"]*)"', page)
    assert found
    return json.loads(unescape(found[1]))


def test_write_page__the_map_has_places_of_the_epochs_whose_features_are_left(
    own_run: Path,
) -> None:
    prune(own_run / "features/epoch=0001")

    about = about_map(page_of(own_run))

    assert about["epochs"] == [0, 1, 2]
    assert about["placed"] == [True, False, True]
    assert about["points"] == about["total"]


def test_write_page__without_features_the_page_says_why_there_is_no_map(own_run: Path) -> None:
    for epoch in range(3):
        prune(own_run / f"features/epoch={epoch:04}")

    page = page_of(own_run)

    assert about_map(page)["placed"] == [False, False, False]
    said = text_of(page)
    assert "There is no map. A map needs the features of an epoch" in said
    assert f"deepcluster stage extract --run {own_run} --epoch 2 makes them again." in said
    assert "Nearly equal" not in said


def test_run_images__rows_are_those_that_were_clustered(own_run: Path) -> None:
    past = PastRun.open(str(own_run))
    expected_NQ = ImageFacts.of(past, 2).rows

    images = RunImages(past.folder, past.recipe, past.states, 2)

    np.testing.assert_allclose(images.rows(2), expected_NQ, atol=1e-5)  # float32
    weighted_NQ = images.rows(2, undo_whitening=True)
    variance_Q = weighted_NQ.var(axis=0)
    assert (np.diff(variance_Q) < 0.1 * variance_Q[0]).all(), "the first directions vary most"


def test_write_page__pictures_come_before_curves_and_costs_last(own_run: Path) -> None:
    evaluate(own_run, "knn", 2)

    sections = re.findall(r'<section id="(\w+)"', page_of(own_run))

    assert sections == [
        "summary", "map", "clusters", "odd", "curves", "evaluations", "cost", "configuration",
    ]  # fmt: skip


def test_write_page__black_pictures_are_said_first(
    prefect_server: str, tiny_images: Path, tmp_path: Path
) -> None:
    for path in sorted(tiny_images.rglob("*.png")):
        to = tmp_path / "dark" / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            Image.fromarray(np.asarray(picture) // 16).save(to)
    run = tmp_path / "run"
    make_run(write_recipe(tmp_path / "dark.yaml", tmp_path / "dark"), run, epochs=1)

    page = page_of(run)

    assert re.findall(r'<p class="remark \w+">.*?<b>(.*?)</b>', page)[0] == (
        "The pictures are almost black."
    )


@pytest.mark.slow
def test_write_page__as_many_clusters_as_asked_for_by_seed(own_run: Path) -> None:
    few, other = page_of(own_run, clusters=5, seed=1), page_of(own_run, clusters=5, seed=2)

    assert len(cards_of(few)) == len(cards_of(other)) == 5
    assert {few == page_of(own_run, clusters=5, seed=seed) for seed in range(8)} == {True, False}
    assert cards_of(page_of(own_run, clusters=0)) == []


def test_write_page__while_the_run_goes_on(own_run: Path) -> None:
    shutil.rmtree(own_run / "metrics/epoch=0002")
    shutil.rmtree(own_run / "checkpoints/epoch=0002")
    said = text_of(page_of(own_run))
    assert "2 of 3 epochs are scored so far." in said
    assert "as of epoch 2" in said, "its labels are there"

    for kind in ("features", "labels", "checkpoints", "metrics"):
        shutil.rmtree(own_run / kind)
    said = text_of(page_of(own_run))
    assert "0 of 3 epochs are scored so far." in said
    assert "Clusters" not in said


def test_write_page__one_epoch_without_labels(
    prefect_server: str, tiny_images: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(tiny_images.rglob("*.png"))):
        shutil.copy(path, flat / f"{number}.png")
    run = tmp_path / "run"
    changes = {"dataset": {"channels": 3, "encoding": "none"}}
    make_run(write_recipe(tmp_path / "flat.yaml", flat), run, epochs=1, overrides=changes)

    page = page_of(run)
    assert "It should fall from epoch to epoch." in text_of(page)
    assert 'data-purity="' not in page
    assert page.count('loading="lazy"') > 90

    shutil.rmtree(flat)
    page = page_of(run, clusters=44)
    assert 'class="gone"' in page
    assert "could not be read any more; a grey tile stands for each." in text_of(page)


def test_write_page__artifacts_of_other_settings_are_named_not_drawn(own_run: Path) -> None:
    config = own_run / "config.yaml"
    save_recipe(load_recipe(config, {"train": {"lr": 0.01}}), config)

    said = text_of(page_of(own_run))

    assert "checkpoints of epoch 0, metrics of epoch 0" in said
    assert "stale, and not shown here" in said
    assert "0 of 3 epochs are scored so far." in said
    assert "as of epoch 0" in said, "the first labels do not depend on it"


def test_write_page__evaluations_with_tables_and_pictures(own_run: Path) -> None:
    evaluate(own_run, "filters", 1)
    evaluate(own_run, "filters", 2, checkpoint="0" * 64)

    page = page_of(own_run)

    assert page.count('src="data:image/png;base64,') == 2
    assert "<td>0.250</td>" in page
    assert "<summary>Epoch 1</summary>" in page
    assert text_of(page).count("Made from artifacts that the run no longer has.") == 1


def test_key_pictures__overview_and_the_latest_filters(own_run: Path) -> None:
    assert [*key_pictures(RunFolder(own_run))] == ["overview"]
    evaluate(own_run, "filters", 1)
    latest = evaluate(own_run, "filters", 2)

    found = key_pictures(RunFolder(own_run))

    assert found["filters"] == (latest / "filters.png").read_bytes()
    assert found["overview"] == (own_run / "overview.png").read_bytes()


@pytest.mark.slow  # numba compiles UMAP for a minute
def test_write_page__by_umap(own_run: Path) -> None:
    pytest.importorskip("umap")

    page = write_page(RunFolder(own_run), options=MapOptions(method="umap"))

    assert "placed by UMAP" in text_of(page.read_text(encoding="utf-8"))


def test_write_page__a_class_has_one_colour_in_the_whole_page(
    tiny_images: Path, tmp_path: Path
) -> None:
    # In an order in which classes are not met by their names, each as often as the others.
    paths = sorted(tiny_images.rglob("*.png"), key=lambda path: (path.stem, path.parent.name[::-1]))
    frame = pd.DataFrame({"image": paths, "label": [path.parent.name for path in paths]})
    source = images_from_frame(frame, tmp_path / "shapes.parquet", label="label")
    make_run(write_recipe(tmp_path / "shapes.yaml", source), tmp_path / "run", epochs=1)
    labels = tmp_path / "run/labels/epoch=0000"

    assigned = read_assigned(labels, before=None, images=tmp_path / "run/images")

    pictures = Images(tmp_path / "run/images")
    class_N, _ = pictures.named_labels()
    assert assigned.label_N is not None
    np.testing.assert_array_equal(assigned.label_N, class_N)  # the map's numbers
    by_occurrence_N = pictures.true_labels()
    assert by_occurrence_N is not None
    assert by_occurrence_N.tolist() != class_N.tolist()
