"""Lists of several pages in `deepcluster look`, which a real browser scrolls through."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flows.look.facts import SIMILAR
from tests.support.browser import Tab, browser, needs_browser
from tests.support.look_server import LAST, Served
from tests.support.timeouts import eventually

LIST = f"/epoch/{LAST}/image/5"
"""A page with a list of all other images, the most similar first."""
OTHERS = 119
NUM_PAGES = 5
WIDTH, HEIGHT = 360, 400
"""A window with three images in a row: a page of the list is higher than two windows."""


@pytest.fixture(scope="module")
def tab(served: Served) -> Iterator[Tab]:
    """Return a browser that has opened the address."""
    with browser() as opened:
        opened.open(served.address)
        yield opened


def loaded(tab: Tab) -> list[int]:
    """Return the pages of the list whose images are in the document."""
    parts = "[...document.querySelectorAll('.part')].filter((part) => part.children.length)"
    return json.loads(tab.evaluate(f"JSON.stringify({parts}.map((part) => +part.dataset.page))"))


def scroll(tab: Tab, page: int) -> None:
    """Scroll until a page of the list begins below the header, and wait for its images."""
    part = f"document.querySelector('[data-page=\"{page}\"]')"
    top = f"{part}.getBoundingClientRect().top - document.querySelector('header').offsetHeight"
    tab.evaluate(f"scrollBy(0, {top})")
    eventually(lambda: page in loaded(tab), wanted=True)
    eventually(lambda: tab.evaluate("history.state?.place?.page ?? 1"), page)


def images_of(page: str) -> list[int]:
    """Return the images of a list's page, in order."""
    tiles = page.split('class="tile"')[1:]
    return [int(tile.partition('data-image="')[2].partition('"')[0]) for tile in tiles]


def first_in_view(tab: Tab) -> list[Any]:
    """Return the address of the first image below the header, and its place in the window."""
    found = """JSON.stringify((() => {
      const top = document.querySelector('header').offsetHeight;
      const boxes = [...document.querySelectorAll('.tile a')].map(
        (link) => [link.getAttribute('href'), link.getBoundingClientRect().top]);
      return boxes.find(([, place]) => place > top);
    })())"""
    return json.loads(tab.evaluate(found))


def test_list__has_each_image_once_by_its_links_alone(served: Served) -> None:
    with served.client() as client:
        pages = [client.get(f"{LIST}?page={page}").text for page in range(1, NUM_PAGES + 1)]

    found = [image for page in pages for image in images_of(page)]
    assert len(found) == OTHERS
    assert {*found} == {*range(OTHERS + 1)} - {5}
    assert all(f'href="?page={page + 2}"' in text for page, text in enumerate(pages[:-1]))


def test_fragment__is_the_page_of_the_list_alone(served: Served) -> None:
    with served.client() as client:
        page = client.get(f"{LIST}?page=2").text
        fragment = client.get(f"{LIST}?page=2&fragment=1")

    assert images_of(fragment.text) == images_of(page)
    assert fragment.text.strip() in page
    assert "<html" not in fragment.text
    assert "default-src 'none'" in fragment.headers["content-security-policy"]
    assert httpx.get(f"{served.base}{LIST}?page=2&fragment=1").status_code == 403


@needs_browser
def test_scrolling__loads_what_comes_near_and_drops_what_is_far(tab: Tab, served: Served) -> None:
    tab.open(f"{served.base}{LIST}", width=WIDTH, height=HEIGHT)
    eventually(lambda: loaded(tab), [1])
    height = tab.evaluate("document.body.scrollHeight")

    scroll(tab, NUM_PAGES)

    eventually(lambda: [page for page in loaded(tab) if page < 3], [])
    fetched = [url for url in tab.requests if "fragment=1" in url]
    assert not [url for url in fetched if "page=2" in url], "what is scrolled past"
    now = tab.evaluate("document.body.scrollHeight")
    assert abs(now - height) < 5, "the scroll bar knows all pages"
    shown = "document.querySelector('#shown')"
    assert tab.evaluate(f"{shown}.role") == "status", "screen readers read it when they are idle"
    eventually(lambda: tab.evaluate(f"{shown}.textContent.endsWith('of 119 are shown')"), True)
    hidden = "[...document.querySelectorAll('.part')].filter((part) => part.ariaHidden).length"
    assert tab.evaluate(hidden) == NUM_PAGES - len(loaded(tab))
    assert tab.complaints == []

    scroll(tab, 1)

    eventually(lambda: NUM_PAGES in loaded(tab), wanted=False)
    ticks = "[...document.querySelectorAll('.tick-part')].length"
    assert tab.evaluate(ticks) == len(loaded(tab))


@needs_browser
def test_going_back__keeps_the_place(tab: Tab, served: Served) -> None:
    tab.open(f"{served.base}{LIST}", width=WIDTH, height=HEIGHT)
    scroll(tab, 3)
    tab.evaluate("scrollBy(0, 217)")
    image, top = first_in_view(tab)

    tab.evaluate(f"document.querySelector('.tile a[href=\"{image}\"]').click()")
    tab.wait_for("Page.loadEventFired")
    assert tab.evaluate("location.pathname") == image
    tab.evaluate("history.back()")
    tab.wait_for("Page.loadEventFired")

    assert tab.evaluate("location.search") == "?page=3", "an address to share"
    eventually(lambda: first_in_view(tab)[0], image)
    assert abs(first_in_view(tab)[1] - top) < 3
    tab.send("Page.reload")
    tab.wait_for("Page.loadEventFired")
    eventually(lambda: first_in_view(tab)[0], image)


@needs_browser
def test_address_of_a_page__begins_there(tab: Tab, served: Served) -> None:
    tab.open(f"{served.base}{LIST}?page=4", width=WIDTH, height=HEIGHT)

    eventually(lambda: 4 in loaded(tab), wanted=True)
    place = tab.evaluate("document.querySelector('[data-page=\"4\"]').getBoundingClientRect().top")
    assert 0 < place < HEIGHT / 2


@needs_browser
def test_keyboard__goes_on_where_the_next_page_is_not_loaded(tab: Tab, served: Served) -> None:
    tab.open(f"{served.base}{LIST}", width=WIDTH, height=HEIGHT)
    tab.evaluate(f"document.querySelectorAll('.tile a')[{SIMILAR - 1}].focus()")

    tab.press("ArrowRight")

    place = "[...document.querySelectorAll('.tile a')].indexOf(document.activeElement)"
    eventually(lambda: tab.evaluate(place), SIMILAR)
    tab.press("ArrowLeft", " ")
    ticked = "document.querySelector('#ticked').textContent"
    eventually(lambda: tab.evaluate(ticked), "1 image ticked")
    tab.evaluate("document.querySelector('#untick').click()")


@needs_browser
def test_tick_these__ticks_one_page_of_the_list(tab: Tab, served: Served) -> None:
    tab.open(f"{served.base}{LIST}", width=WIDTH, height=HEIGHT)
    scroll(tab, 2)

    tab.evaluate("document.querySelector('[data-page=\"2\"] .tick-part').click()")

    assert tab.evaluate("document.querySelector('#ticked').textContent") == "24 images ticked"
    scroll(tab, NUM_PAGES)
    eventually(lambda: 2 in loaded(tab), wanted=False)
    scroll(tab, 2)
    checked = "document.querySelectorAll('[data-page=\"2\"] .tick:checked').length"
    assert tab.evaluate(checked) == SIMILAR
    tab.evaluate("document.querySelector('#untick').click()")


@needs_browser
def test_list__says_that_the_server_does_not_answer(tab: Tab, served: Served) -> None:
    tab.open(f"{served.base}{LIST}", width=WIDTH, height=HEIGHT)
    set_offline(tab, offline=True)
    tab.evaluate("scrollTo(0, document.body.scrollHeight)")

    said = "document.querySelector('#shown').textContent"
    eventually(lambda: "cannot be loaded" in tab.evaluate(said), wanted=True)

    set_offline(tab, offline=False)
    scroll(tab, 3)


def set_offline(tab: Tab, *, offline: bool) -> None:
    speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.send("Network.emulateNetworkConditions", offline=offline, **speed)
