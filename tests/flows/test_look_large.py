"""`deepcluster look` stays fluent with 100,000 images, on a real run of given features."""

import io
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.look.pages import IMAGES
from tests.support.browser import browser, needs_browser
from tests.support.look_server import serving_look
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import eventually

pytestmark = pytest.mark.slow  # packs and clusters 100,000 images

NUM_IMAGES, NUM_GROUPS, SIDE, DIM = 100_000, 120, 32, 256
RECIPE = """
epochs: 0
dataset: {source: images.parquet, shorter_side: 32, channels: 3, encoding: raw}
network: {name: smallnet, image_size: 32}
extract: {from: features.npy}
cluster: {k: 100}
train: {batch_size: 64, lr: 0.05}
"""
PAGE_S = 3.0
"""Longest time for a page; 0.3 s were measured on two cores with four times their load."""
MEMORY_MIB = 1500
"""Largest memory of the server's own; 900 MiB were measured, half of it libraries."""


def write_source(folder: Path) -> None:
    """Write images whose colour is that of their group, and features around its centre."""
    draw = np.random.default_rng(0)
    group_N = draw.integers(0, NUM_GROUPS, NUM_IMAGES)
    centre_GD = draw.normal(size=(NUM_GROUPS, DIM))
    noise_ND = draw.normal(size=(NUM_IMAGES, DIM))
    np.save(folder / "features.npy", (centre_GD[group_N] + 1.5 * noise_ND).astype(np.float16))
    encoded: list[bytes] = []
    for colour_C in draw.integers(0, 256, (NUM_GROUPS, 3)):
        file = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), tuple(colour_C.tolist())).save(file, "PNG")
        encoded.append(file.getvalue())
    images = [
        {"bytes": encoded[group], "path": f"group{group:03d}/photograph_{number:06d}.png"}
        for number, group in enumerate(group_N)
    ]
    labels = [f"class {group // 10}" for group in group_N]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "images.parquet")


@pytest.fixture(scope="module")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    write_source(folder)
    (folder / "large.yaml").write_text(RECIPE)
    environment = ENVIRONMENT | {"PREFECT_HOME": str(folder / "home")}
    command = [PROGRAM, "run", "large.yaml", "--run", folder / "run"]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return folder / "run"


def test_look__is_fluent_with_100_000_images(large_run: Path, tmp_path: Path) -> None:
    with serving_look(large_run, tmp_path) as served, served.client() as client:
        for path in (
            "/epoch/0/",
            "/epoch/0/?order=mixed&page=2",
            "/epoch/0/cluster/3",
            "/epoch/0/cluster/3?order=far&page=3",
            "/epoch/0/search?q=photograph_05",
        ):
            start = time.monotonic()
            answer = client.get(path, timeout=60)
            seconds = time.monotonic() - start
            assert answer.status_code == 200
            assert len(answer.content) < 200_000, "however many images there are"
            assert seconds < PAGE_S, path
        client.get("/epoch/0/image/77", timeout=60)  # waits until the features are read
        start = time.monotonic()
        client.get("/epoch/0/image/99999", timeout=60)
        assert time.monotonic() - start < PAGE_S
        assert own_memory_mib(served.process_id) < MEMORY_MIB


@needs_browser
def test_list__of_100_000_images_keeps_few_in_the_browser(large_run: Path, tmp_path: Path) -> None:
    with serving_look(large_run, tmp_path) as served, browser() as tab:
        tab.open(served.address)
        tab.open(f"{served.base}/epoch/0/search?q=photograph")
        for part in (0.25, 0.5, 0.75, 1):
            tab.evaluate(f"scrollTo(0, {part} * document.body.scrollHeight)")
            eventually(lambda: tab.evaluate(IN_VIEW_IS_LOADED), wanted=True)
            eventually(lambda: tab.evaluate(TILES) <= MOST_TILES, wanted=True)

        assert tab.evaluate("document.querySelectorAll('.part').length") == NUM_IMAGES // IMAGES
        fetched = [url for url in tab.requests if "fragment=1" in url]
        assert len(fetched) < 40, "of 500 pages, those near the four places"
        assert tab.complaints == []


TILES = "document.querySelectorAll('.tile').length"
MOST_TILES = 3000
"""Images in the document: those of the window, and of four windows before and after it."""
IN_VIEW_IS_LOADED = """
[...document.querySelectorAll('.part')].filter((part) => {
  const { top, bottom } = part.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}).every((part) => part.childElementCount > 0)
"""


def own_memory_mib(process_id: int) -> int:
    """Return the memory of a process without files that it has mapped."""
    status = Path(f"/proc/{process_id}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return int(found[1]) >> 10
