import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepcluster_core.artifacts.commit import new_artifact, prune
from deepcluster_core.artifacts.manifest import Stage
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from flows.show.page import write_page
from flows.show.page_inputs import MapOptions, key_pictures
from stages.evaluations.shared.results import RESULTS, write_results
from stages.runs.folder import RunFolder
from stages.runs.image_facts import ImageFacts
from stages.runs.past_run import PastRun
from stages.runs.recipe import load_recipe, save_recipe
from stages.runs.run_images import RunImages
from tests.support.browser import PROGRAM, Tab, browser
from tests.support.flow_runs import loop
from tests.support.recipes import write_recipe

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium or Chrome on this machine")
HOSTILE = "<img src=x onerror=alert(1)>\"'&\x1b[2J"


def page_of(run: Path, **options: int) -> str:
    settings: dict[str, Any] = options
    return write_page(RunFolder(run), **settings).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """Return what is read, without the tags."""
    return re.sub(r"<[^>]*>", " ", page[page.index("<body>") : page.index("<script>")])


def cards_of(page: str) -> list[str]:
    return re.findall(r"<article .*?</article>", page, re.DOTALL)


class Nothing(StrictConfig):
    """A protocol without keys."""


def evaluate(run: Path, name: str, epoch: int, *, checkpoint: str | None = None) -> Path:
    """Leave an evaluation in a run, with a picture; `checkpoint` is a digest."""
    stage = Stage(name, 1, f"evaluations/{name}", (RESULTS, "filters.png"))
    out = RunFolder(run).artifact(stage.kind, epoch)
    with new_artifact(
        stage,
        out,
        config={"protocol": Nothing()},
        inputs={} if checkpoint is None else {"checkpoint": checkpoint},
        context=Context(seed=31, epoch=epoch),
    ) as draft:
        Image.new("L", (8, 8), 128).save(out / "filters.png")
        write_results(draft, [{"layer": "conv1", "accuracy": 0.125 * epoch}], Nothing())
    return out


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
    loop(write_recipe(tmp_path / "dark.yaml", tmp_path / "dark"), run, epochs=1)

    page = page_of(run)

    assert re.findall(r'<p class="remark \w+">.*?<b>(.*?)</b>', page)[0] == (
        "The pictures are almost black."
    )


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
    loop(write_recipe(tmp_path / "flat.yaml", flat), run, epochs=1, overrides=changes)

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


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """Return a page of a browser."""
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def hostile_page(
    prefect_server: str, tiny_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the page of a run whose files and classes have hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    for path in tiny_images.rglob("*"):
        if path.is_file():
            to = folder / "source" / f"{path.parent.name}{HOSTILE}" / f"{HOSTILE}{path.name}"
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
    run = folder / "<script>alert(1)<"
    loop(write_recipe(folder / "hostile.yaml", folder / "source"), run)
    evaluate(run, "filters", 2)
    return write_page(RunFolder(run), clusters=6)


@needs_browser
@pytest.mark.parametrize("width", [360, 800, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_page__fits_every_screen_and_asks_nobody(
    tab: Tab, hostile_page: Path, width: int, *, dark: bool
) -> None:
    tab.open(hostile_page, width=width, dark=dark)
    tab.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")

    seen: dict[str, Any] = json.loads(tab.evaluate(SEEN))

    assert seen["width"] == width, "the page itself never scrolls sideways"
    assert seen["pictures"] > 80, "16 of most of the 6 clusters"
    assert seen["broken"] == []
    assert seen["scripts"] == 1
    assert seen["contrast"] > 4.5, "of the weakest text on the paper, after WCAG's AA"
    assert tab.complaints == []
    assert {url for url in tab.requests if not url.startswith("data:")} == {hostile_page.as_uri()}


SEEN = """
(async () => {
  const pictures = [...document.querySelectorAll('img')];
  for (const picture of pictures) picture.loading = 'eager';
  const failed = await Promise.all(pictures.map((p) => p.decode().then(() => null, () => p.alt)));
  const rgb = (value) => value.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (value) => rgb(value).reduce((sum, v, i) => sum + v * weights[i], 0);
  const style = (selector) => getComputedStyle(document.querySelector(selector));
  const [a, b] = [light(style('header p').color), light(style('body').backgroundColor)];
  return JSON.stringify({
    width: Math.max(document.documentElement.scrollWidth, innerWidth),
    pictures: pictures.length,
    broken: failed.filter((alt) => alt !== null),
    scripts: document.scripts.length,
    contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
  });
})()
"""


@needs_browser
def test_page__charts_clusters_and_images_answer(tab: Tab, hostile_page: Path) -> None:
    tab.open(hostile_page)

    legend = "document.querySelector('.chart .legend').innerText"
    latest = tab.evaluate(legend)
    tab.evaluate("document.querySelector('.chart svg').focus()")
    tab.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
    assert "epoch 2" in latest
    assert "epoch 1" in tab.evaluate(legend)
    tab.evaluate("document.querySelector('.chart svg').blur()")
    assert tab.evaluate(legend) == latest

    sizes = "[...document.querySelectorAll('.card')].filter((c) => c.offsetParent)"
    pressed = "[...document.querySelectorAll('.tools button')].find((b) => b.textContent === '{}')"
    tab.evaluate(f"{pressed.format('Largest')}.click()")
    shown = tab.evaluate(f"{sizes}.map((c) => Number(c.dataset.size))")
    assert len(shown) == 6
    assert shown == sorted(shown, reverse=True)
    tab.evaluate(
        "const box = document.querySelector('.tools input');"
        "box.value = document.querySelector('.card').dataset.id;"
        "box.dispatchEvent(new Event('input'))"
    )
    assert len(tab.evaluate(f"{sizes}.map((c) => c.dataset.id)")) == 1

    tab.evaluate("document.querySelector('.card:not([hidden]) img').click()")
    assert "onerror=alert(1)" in tab.evaluate(
        "document.querySelector('dialog[open] p').textContent"
    )
    assert tab.complaints == []


@needs_browser
def test_page__the_map_answers_pointer_keys_and_slider(tab: Tab, hostile_page: Path) -> None:
    tab.open(hostile_page)
    assert tab.evaluate("reportMap.then((opened) => opened.map !== null)")
    canvas = "document.querySelector('#image-map canvas')"
    said = "document.querySelector('.map-said').textContent"
    tab.evaluate(f"{canvas}.scrollIntoView(); {canvas}.focus()")
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    coloured = (
        f"{canvas}.getContext('2d').getImageData(0, 0, {canvas}.width, {canvas}.height)"
        ".data.filter((value, i) => i % 4 === 3 && value === 255).length"
    )
    assert tab.evaluate(coloured) > 90, "each image is a point of some pixels"

    tab.send("Input.dispatchKeyEvent", type="keyDown", key="Enter")
    assert "of epoch 2" in tab.evaluate("document.querySelector('dialog[open] h4').textContent")
    assert tab.evaluate("document.querySelectorAll('dialog .sheet canvas').length") > 0
    assert "points of this map" in tab.evaluate(said)
    tab.evaluate("document.querySelector('dialog').close()")

    tab.evaluate(f"{canvas}.focus()")
    tab.send("Input.dispatchKeyEvent", type="keyDown", key=",")
    assert tab.evaluate("document.querySelector('.map-when').textContent").startswith("epoch 1")
    tab.evaluate(
        "const slider = document.querySelector('.map-epoch');"
        "slider.value = 0; slider.dispatchEvent(new Event('input'))"
    )
    assert "network as initialised" in tab.evaluate(
        "document.querySelector('.map-when').textContent"
    )
    assert "onerror=alert(1)" in tab.evaluate("reportMap.then((opened) => opened.points.paths[0])")
    choices = "document.querySelector('.map-colour')"
    names = tab.evaluate(f"[...{choices}.options].map((option) => option.text)")
    assert names[:3] == ["cluster", "true label", "distance to the centroid"]
    assert names[3:] == ["stability", "epoch of the last change"]
    for number in range(len(names)):
        tab.evaluate(f"{choices}.value = {number}; {choices}.dispatchEvent(new Event('change'))")
    assert tab.complaints == []


@needs_browser
def test_page__a_cluster_of_an_earlier_epoch_is_shown_on_the_map(
    tab: Tab, hostile_page: Path
) -> None:
    tab.open(hostile_page)
    tab.evaluate("reportMap.then(() => new Promise((done) => setTimeout(done)))")

    tab.evaluate("document.querySelector('a[data-epoch]').click()")

    assert "of epoch 1" in tab.evaluate("document.querySelector('.map-said').textContent")
    assert tab.evaluate("location.hash") == "#map"


@needs_browser
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("no such thing", "Nothing is found; try a cluster's number, a class or a part of a path."),
        ("99999", "there is no cluster 99999"),
        (".png", "images with this path"),
    ],
)
def test_page__search_counts_and_shows_a_way_out(
    tab: Tab, hostile_page: Path, wanted: str, said: str
) -> None:
    tab.open(hostile_page)
    tab.evaluate("reportMap")

    tab.evaluate(
        "const box = document.querySelector('.tools input');"
        f"box.value = {json.dumps(wanted)}; box.dispatchEvent(new Event('input'))"
    )

    assert said in tab.evaluate("document.querySelector('.found').textContent")


@needs_browser
def test_page__search_names_the_command_that_shows_a_cluster(tab: Tab, hostile_page: Path) -> None:
    tab.open(hostile_page)
    tools = "document.querySelector('.tools')"
    missing = tab.evaluate(
        f"{tools}.dataset.populated.split(',')"
        ".find((id) => !document.getElementById('cluster-' + id))"
    )

    tab.evaluate(
        f"const box = {tools}.querySelector('input');"
        f"box.value = {json.dumps(missing)}; box.dispatchEvent(new Event('input'))"
    )

    found = tab.evaluate("document.querySelector('.found').textContent")
    assert f"cluster {missing} is not in this page: deepcluster report" in found
    assert "--clusters" in found


@pytest.mark.slow  # numba compiles UMAP for a minute
def test_write_page__by_umap(own_run: Path) -> None:
    pytest.importorskip("umap")

    page = write_page(RunFolder(own_run), options=MapOptions(method="umap"))

    assert "placed by UMAP" in text_of(page.read_text(encoding="utf-8"))
