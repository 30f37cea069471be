import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from deepcluster_core.clustering.changes import changes
from deepcluster_core.report.evaluations import PICTURE_AT_MOST, Evaluation, Picture
from deepcluster_core.report.gallery import Assigned, Gallery, choose, describe
from deepcluster_core.report.page import Report, Setup, render
from deepcluster_core.report.page_format import inputs_of
from deepcluster_core.report.thumbnails import Thumbnails, thumbnail

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> \x1b[2J \udcff"
INPUTS = "0123456789abcdef" * 4
VOID = {"meta", "link", "img", "input", "br", "path", "rect", "circle"}


class Outline(HTMLParser):
    """Every tag with its attributes; tags must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.unclosed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag


def outline(page: bytes) -> Outline:
    parser = Outline()
    parser.feed(page.decode())
    parser.close()
    assert parser.unclosed == []
    return parser


def gallery() -> Gallery:
    cluster_N = np.repeat([0, 1, 2], [20, 5, 3])
    before_N = np.repeat([0, 1, 2, 3], [8, 12, 5, 3])
    found = Assigned(
        cluster_N,
        np.linspace(0, 1, 28),
        np.repeat([0, 1], [18, 10]),
        3,
        changes(before_N, cluster_N, k_before=4, k_after=3),
    )
    groups = choose(found, clusters=3, generator=np.random.default_rng(0))
    data = {i: thumbnail(np.full((8, 8, 1), 9 * i, np.uint8), 8)[0] for i in range(27)}
    return Gallery(
        epoch=4,
        groups=groups,
        clusters=describe(found, [0, 1, 2]),
        thumbnails=Thumbnails(data, 8, {27: f"{HOSTILE}: is gone"}),
        paths=dict.fromkeys(range(28), HOSTILE),
        labels={0: HOSTILE, 1: "cat"},
        populated=3,
    )


def report() -> Report:
    row = {"epoch": 0, "loss": 4.0, "k": 3, "images": 28, "warnings": HOSTILE, "train_s": 5.0}
    return Report(
        name=HOSTILE,
        setup=Setup(HOSTILE, 16, True, HOSTILE, 28, 3, HOSTILE, epochs=2, scored=2, seed=31),
        notes=[HOSTILE],
        rows=[row, row | {"epoch": 1, "loss": float("nan")}],
        sizes=[20, 5, 3],
        gallery=gallery(),
        evaluations=[
            Evaluation(HOSTILE, 1, [{"<b>": HOSTILE}], [Picture(f"{HOSTILE}.png", b"x", HOSTILE)])
        ],
        config=HOSTILE,
        provenance={HOSTILE: HOSTILE},
        inputs=INPUTS,
    )


def test_render__nothing_hostile_becomes_a_tag() -> None:
    page = render(report())

    tags = outline(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert all((a["src"] or "").startswith("data:image/") for tag, a in tags if tag == "img")
    assert b"\x1b" not in page


def test_render__fetches_nothing_and_its_policy_knows_its_own_parts_alone() -> None:
    page = render(report()).decode()

    for _, attributes in outline(render(report())).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    assert not re.search(r"url\(|@import|\sstyle=", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    for name in ("style", "script"):
        part = re.search(rf"<{name}>(.*)</{name}>", page, re.DOTALL)
        assert part
        digest = base64.b64encode(hashlib.sha256(part[1].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]


def test_render__the_same_report_gives_the_same_bytes() -> None:
    assert render(report()) == render(report())


def test_render__of_a_run_that_has_nothing_yet() -> None:
    nothing = replace(report(), rows=[], sizes=[], gallery=None, evaluations=[], notes=[])

    page = render(nothing).decode()

    outline(page.encode())
    assert "No epoch is done." in page
    assert 'id="clusters"' not in page


def test_render__each_cluster_tells_its_images_purity_and_history() -> None:
    tags = outline(render(report())).tags
    cards = {a["data-id"]: a for tag, a in tags if tag == "article"}

    assert {number: card["data-size"] for number, card in cards.items()} == {
        "0": "20",
        "1": "5",
        "2": "3",
    }
    assert cards["0"]["data-purity"] == "0.9000"
    text = re.sub(r"<[^>]*>", "", render(report()).decode())
    assert "Merged from clusters 1 (12 images), 0 (8 images) of epoch 3" in text
    assert "The same as cluster 2 of epoch 3: 5 of its 5 images came along (Jaccard 1.00)" in text
    # Clusters 0 to 2 show 16, 5 and 3 images, of which one cannot be read.
    pictures = [a for tag, a in tags if tag == "img" and a.get("title")]
    assert len(pictures) == 23
    assert "1 image could not be read any more" in text
    # Two images of cluster 0 have another label than most, and are among its farthest.
    assert sum(a.get("class") == "odd" for a in pictures) == 2


def test_render__evaluations_fold_long_tables_and_leave_out_huge_pictures() -> None:
    long = Evaluation(
        "filters",
        7,
        [{"filter": number, "norm": 0.5, "protocol": "abc"} for number in range(600)],
        [
            Picture("filters.png", b"small", "Filters after training, a tile each"),
            Picture("layers/conv5.png", b"x" * (PICTURE_AT_MOST + 1), "conv5"),
        ],
        "Made from artifacts that the run no longer has.",
    )
    page = render(replace(report(), evaluations=[long, replace(long, epoch=3)])).decode()

    assert page.index("<p>Epoch 7</p>") < page.index("<summary>Epoch 3</summary>")
    assert "600 rows" in page
    assert "and 100 more rows" in page
    assert "protocol" not in page
    assert 'alt="Filters after training, a tile each"' in page
    assert "layers/conv5.png, 4.19 MB, is too large" in page
    assert "the run no longer has" in page


def test_render__shows_text_exactly_as_it_is() -> None:
    page = render(replace(report(), notes=["a\"b'c&d <b>\u202egnp.exe"])).decode()

    assert r"a&#34;b&#39;c&amp;d &lt;b&gt;\u202egnp.exe" in page


def test_inputs_of__finds_the_digest_of_a_page_and_of_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"

    assert inputs_of(path) is None
    path.write_bytes(b"<html>somebody else's")
    assert inputs_of(path) is None
    path.write_bytes(render(report()))
    assert inputs_of(path) == INPUTS
