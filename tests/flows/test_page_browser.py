"""The page of a run's report in a real browser."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.show.page import write_page
from stages.runs.folder import RunFolder
from tests.support.browser import PROGRAM, Tab, browser
from tests.support.plain_runs import make_run
from tests.support.recipes import write_recipe
from tests.support.report_pages import evaluate

HOSTILE = "<img src=x onerror=alert(1)>\"'&\x1b[2J"
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium or Chrome on this machine")


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
    make_run(write_recipe(folder / "hostile.yaml", folder / "source"), run)
    evaluate(run, "filters", 2)
    return write_page(RunFolder(run), clusters=6)


@needs_browser
@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (360, False),
        (1600, True),
        pytest.param(360, True, marks=pytest.mark.slow),
        pytest.param(800, False, marks=pytest.mark.slow),
        pytest.param(800, True, marks=pytest.mark.slow),
        pytest.param(1600, False, marks=pytest.mark.slow),
    ],
)
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
