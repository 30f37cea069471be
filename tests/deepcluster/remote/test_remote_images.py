"""The images of a run on an object store: uploaded and fetched part by part, and killed between."""

import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import deepcluster
from deepcluster_core.artifacts import pixel_parts, stored_parts
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.mirrored import commit, lease
from deepcluster_core.artifacts.remote.opening import open_mirror
from tests.support.object_stores import BUCKET, ObjectStoreServer
from tests.support.recipes import write_recipe
from tests.support.remote_runs import MAKE, Machine, contents, finished
from tests.support.store_proxy import Fault, StoreProxy
from tests.support.stored_images import dataset, indexed, shard, upload, write_tar
from tests.support.timeouts import WITHIN_S, eventually

Here = Callable[[str], Machine]
BATCH_ROWS, PART_BYTES = 16, 6000
"""With 240 images of 16 pixels, in raw, each of 15 parts has one batch."""
NUM_PARTS = 15
ALWAYS = 10_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_parts, "BATCH_ROWS", BATCH_ROWS)
    monkeypatch.setattr(pixel_parts, "PART_BYTES", PART_BYTES)


@pytest.fixture
def images(here: Here, url: str, tmp_path: Path, tiny_images: Path) -> tuple[Path, Path]:
    """Return images that another machine has published, in a new mirror, and the same ones here."""
    here("first")
    made = open_mirror(url, tmp_path / "made", None).root / "images"
    with lease(made):
        indexed(dataset(tiny_images, channels=1, encoding="raw"), made)
        commit(made)
    shutil.copytree(made, tmp_path / "copy")
    return open_mirror(url, tmp_path / "read", None).root / "images", tmp_path / "copy"


def parts_in(images: Path) -> list[str]:
    return sorted(path.name for path in images.rglob("*.arrow"))


def test_index__publishes_each_part_as_soon_as_it_is_full(
    here: Here, url: str, tmp_path: Path, tiny_images: Path, proxy: StoreProxy
) -> None:
    here("first")
    folder = open_mirror(url, tmp_path / "made", None).root / "images"
    with lease(folder):
        indexed(dataset(tiny_images, channels=1, encoding="raw"), folder)
        # All but the last one, which the end of the stage closes.
        eventually(lambda: proxy.counts_of("part-")["PUT"], NUM_PARTS - 1)
        assert proxy.counts_of("_manifest.json")["PUT"] == 0
        commit(folder)
    assert proxy.counts_of("part-")["PUT"] == NUM_PARTS, "each once"


def test_images__fetch_the_parts_that_are_read_alone(
    images: tuple[Path, Path], proxy: StoreProxy
) -> None:
    place, copy = images
    expected, read = Images(copy), Images(place)
    assert np.array_equal(read[5], expected[5])
    assert np.array_equal(read.verified(100), expected[100])
    assert parts_in(place) == ["part-00000.arrow", "part-00006.arrow"]

    for image_id in range(240):
        assert np.array_equal(read.verified(image_id), expected[image_id])
    # Each was fetched once; of all but the last, the end was read before.
    assert proxy.counts_of("part-")["GET"] == NUM_PARTS + NUM_PARTS - 1


def test_images__a_footer_may_be_long(
    images: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_parts, "END_BYTES", 16)
    place, copy = images

    assert np.array_equal(Images(place)[239], Images(copy)[239])
    assert parts_in(place) == ["part-00014.arrow"]


def test_images__many_threads_fetch_a_part_once(
    images: tuple[Path, Path], proxy: StoreProxy
) -> None:
    place, _ = images
    read = Images(place)
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(read.verified, [224 + number for number in range(8)])]

    assert len(found) == 8
    assert proxy.counts_of("part-00014")["GET"] == 1


def test_images__reading_begins_before_the_last_part_is_here(
    images: tuple[Path, Path], proxy: StoreProxy
) -> None:
    place, copy = images
    proxy.fail(Fault("busy", "GET", "part-00014", times=ALWAYS))
    read, expected = Images(place), Images(copy)

    with read.fetched_ahead(range(240)):
        for image_id in range(224):
            assert np.array_equal(read[image_id], expected[image_id])
        proxy.forget()
        assert np.array_equal(read[239], expected[239])


@pytest.mark.slow
def test_run_epochs__goes_on_with_parts_of_another_machine(
    here: Here, url: str, recipe: Path, tmp_path: Path
) -> None:
    deepcluster.run_epochs(recipe, tmp_path / "local", epochs=2, echo=False)
    here("first")
    deepcluster.run_epochs(recipe, url, epochs=1, echo=False)

    second = here("second")
    deepcluster.run_epochs(recipe, url, epochs=2, echo=False)

    assert len(parts_in(second.mirror / "images")) == NUM_PARTS
    assert contents(second.mirror) == contents(tmp_path / "local")


SMALL_PARTS = f"""
from deepcluster_core.artifacts import pixel_parts
import stages.packed_images
pixel_parts.BATCH_ROWS, pixel_parts.PART_BYTES = {BATCH_ROWS}, {PART_BYTES}
stages.packed_images.READ_AT_ONCE = 1
"""


@pytest.mark.slow
def test_run_epochs__index_of_a_store_goes_on_after_kill(
    machine: Here, url: str, tmp_path: Path, proxy: StoreProxy, server: ObjectStoreServer
) -> None:
    for number in range(6):
        write_tar(tmp_path / f"shards/{number:05d}.tar", shard(number))
    place = url.removeprefix(f"s3://{BUCKET}/").removesuffix("/demo")
    upload(server, tmp_path / "shards", f"{place}/shards")
    recipe = write_recipe(
        tmp_path / "tiny.yaml",
        tmp_path,
        epochs="1",
        dataset=f"{{source: 's3://{BUCKET}/{place}/shards', shorter_side: 16, channels: 1, "
        "encoding: raw, max_skipped_fraction: 0.5}",
        train="{batch_size: 16}",
        compute="{device: cpu, workers: 1, scratch_bytes: 9000000}",
    )
    program = SMALL_PARTS + MAKE
    # The last shard never comes, so that the process is killed in the middle of the index.
    proxy.fail(Fault("hang", "GET", "shards/00005.tar", times=ALWAYS))
    killed = machine("first").start(recipe, url, epochs=1, program=program)
    part = "part-00002.arrow"
    eventually(lambda: proxy.counts_of(part)["PUT"] > 0 or killed.poll() is not None, wanted=True)
    killed.send_signal(signal.SIGKILL)
    output, _ = killed.communicate(timeout=WITHIN_S)
    assert proxy.counts_of("part-00002.arrow")["PUT"], output
    assert proxy.counts_of("_manifest.json")["PUT"] == 0
    proxy.forget()

    finished(machine("first").start(recipe, url, epochs=1, program=program), WITHIN_S)

    gets = {number: proxy.counts_of(f"shards/{number:05d}.tar")["GET"] for number in range(6)}
    assert gets[1] == 0, "its images are in saved parts"
    assert gets[5] > 0
    again = [proxy.counts_of(f"part-{number:05d}.arrow")["PUT"] for number in range(6)]
    assert again[:2] == [0, 0], "they were uploaded before the end"
    assert sum(again) > 0
    undisturbed = Machine(tmp_path / "other", machine("other").environment)
    other_url = url.replace("/demo", "/other")
    finished(undisturbed.start(recipe, other_url, epochs=1, program=program), WITHIN_S)
    assert contents(machine("first").mirror) == contents(undisturbed.mirror)
