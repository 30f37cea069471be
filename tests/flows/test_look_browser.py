"""The pages of `deepcluster look` in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.runs.cluster_names import names_at
from stages.runs.folder import RunFolder
from tests.support.browser import Tab, browser, needs_browser
from tests.support.look_server import LAST, Served, members_of, rows_of
from tests.support.timeouts import eventually


@pytest.fixture(scope="module")
def tab(served: Served) -> Iterator[Tab]:
    """Return a browser that has opened the address."""
    with browser() as opened:
        opened.open(served.address)
        yield opened


def focused(tab: Tab) -> str:
    return tab.evaluate("document.activeElement.getAttribute('href') ?? document.activeElement.id")


PAGES = [
    f"/epoch/{LAST}/",
    f"/epoch/{LAST}/cluster/0",
    f"/epoch/{LAST}/image/5",
    f"/epoch/{LAST}/search?q=png",
    f"/epoch/{LAST}/moves?since=0",
]


@needs_browser
@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (360, False),
        (1600, True),
        pytest.param(360, True, marks=pytest.mark.slow),
        pytest.param(1600, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("page", PAGES)
def test_pages__fit_every_screen_and_ask_nobody_else(
    tab: Tab, served: Served, page: str, width: int, *, dark: bool
) -> None:
    tab.open(f"{served.base}{page}", width=width, dark=dark)

    seen: dict[str, Any] = json.loads(tab.evaluate(SEEN))

    assert seen["width"] == width, "the page itself never scrolls sideways"
    assert seen["pictures"] > 0
    assert seen["broken"] == []
    assert seen["unnamed"] == [], "what a screen reader would have no name for"
    assert tab.complaints == []
    elsewhere = [url for url in tab.requests if not url.startswith((served.base, "data:"))]
    assert elsewhere == []


SEEN = """
(async () => {
  const pictures = [...document.images];
  for (const picture of pictures) picture.loading = 'eager';
  const failed = await Promise.all(pictures.map((p) => p.decode().then(() => null, () => p.src)));
  const named = (e) => e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim()
    || e.querySelector('img')?.alt;
  const controls = [...document.querySelectorAll('a, button, input:not([type=hidden]), select')];
  return JSON.stringify({
    width: Math.max(document.documentElement.scrollWidth, innerWidth),
    pictures: pictures.length,
    broken: failed.filter((source) => source !== null),
    unnamed: controls.filter((e) => !named(e)).map((e) => e.outerHTML),
  });
})()
"""


@needs_browser
def test_keyboard__from_the_clusters_to_an_image_and_back(tab: Tab, served: Served) -> None:
    tab.open(f"{served.base}/epoch/{LAST}/?order=id")

    tab.press("ArrowRight")
    assert focused(tab) == f"/epoch/{LAST}/cluster/0"
    tab.press("ArrowRight")
    assert focused(tab) == f"/epoch/{LAST}/cluster/1"
    tab.press("ArrowLeft", "ArrowDown")
    below = focused(tab)
    assert below not in (f"/epoch/{LAST}/cluster/0", f"/epoch/{LAST}/cluster/1")

    tab.press("Enter")
    tab.wait_for("Page.loadEventFired")
    assert tab.evaluate("location.pathname") == below
    tab.press("ArrowRight", "Enter")
    tab.wait_for("Page.loadEventFired")
    assert "/image/" in tab.evaluate("location.pathname")
    for up in (below, f"/epoch/{LAST}/"):
        tab.press("Escape")
        tab.wait_for("Page.loadEventFired")
        assert tab.evaluate("location.pathname") == up


@needs_browser
def test_keyboard__names_a_cluster(tab: Tab, served: Served) -> None:
    tab.open(f"{served.base}/epoch/{LAST}/cluster/3")

    tab.press("n")
    assert focused(tab) == "name"
    tab.press(*"two discs", "Enter")

    eventually(lambda: tab.evaluate("document.querySelector('h1').textContent"), "two discs")
    assert names_at(RunFolder(served.run), LAST)[3].name == "two discs"
    tab.press("Escape")
    assert focused(tab) == "", "the field is left"

    tab.press("/")
    assert focused(tab) == "search"
    tab.press(*"discs", "Enter")
    tab.wait_for("Page.loadEventFired")
    assert "two discs" in tab.evaluate("document.querySelector('.card h3').textContent")
    served.post(f"/epoch/{LAST}/cluster/3/name", {"name": ""})


@needs_browser
def test_ticks__stay_and_are_taken_out(tab: Tab, served: Served, tmp_path: Path) -> None:
    tab.open(f"{served.base}/epoch/{LAST}/cluster/0?order=id")
    first, second, *_ = members_of(served.run, 0)

    tab.press("ArrowRight", " ", "ArrowRight", " ")
    tab.open(f"{served.base}/epoch/{LAST}/?order=id")
    tab.press("ArrowRight", "ArrowRight", " ")  # the whole cluster 1

    bar = tab.evaluate("document.querySelector('#ticked').textContent")
    assert bar == "2 images and 1 whole cluster ticked"

    tab.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.evaluate("document.querySelector('#take-out-opens').click()")
    tab.evaluate("document.querySelector('#take-out form').requestSubmit()")
    table = tmp_path / "images.csv"
    eventually(table.exists, wanted=True)
    taken = [int(row["image_id"]) for row in rows_of(table.read_text())]
    assert taken == sorted({first, second, *members_of(served.run, 1)})

    tab.evaluate("document.querySelector('[value=folder]').click()")
    tab.evaluate("document.querySelector('[name=folder]').value = 'by hand'")
    tab.evaluate("document.querySelector('#take-out form').requestSubmit()")
    answer = "document.querySelector('#take-out .answer').textContent"
    eventually(lambda: "Copied" in tab.evaluate(answer), wanted=True)
    assert len([*(served.out / "by hand").rglob("*.png")]) == len(taken)

    tab.evaluate("document.querySelector('#take-out .closes').click()")
    tab.evaluate("document.querySelector('#untick').click()")
    assert tab.evaluate("document.querySelector('.bar').hidden")
    assert tab.complaints == []
