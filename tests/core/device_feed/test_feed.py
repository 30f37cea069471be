"""The way of packed bytes to a device. Suffixes: B images of a batch, S side, C channels."""

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.artifacts.images import Encoding, Images
from deepcluster_core.artifacts.pixel_parts import BATCH_ROWS
from deepcluster_core.data.views import center_boxes, center_view
from deepcluster_core.device_feed.crops import Cut
from deepcluster_core.device_feed.feed import FedBatch, Feed, Request
from deepcluster_core.device_feed.queues import Queues
from deepcluster_core.device_feed.slots import FeedClosedError, Ring, Slot
from deepcluster_core.device_feed.source import DecodedImages, source_of
from deepcluster_core.errors import ArtifactError
from tests.core.artifacts.test_images import pack, pictures
from tests.core.device_feed.test_crops import ROUNDING
from tests.support.late_queues import LateMarker, late_queues

SIZE, RESIZE = 7, 8
NUM_IMAGES = BATCH_ROWS + 40  # two record batches


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images") / "images"
    return Images(pack(folder, pictures(NUM_IMAGES), "raw"))


def request_for(ids: Sequence[int], *, extras: tuple[NDArray[np.generic], ...] = ()) -> Request:
    """Ask for the centre of images."""

    def cut(height_B: NDArray[np.int64], width_B: NDArray[np.int64]) -> list[Cut]:
        box_B4 = center_boxes(height_B, width_B, resize=RESIZE, size=SIZE)
        return [Cut(box_B4, np.zeros(len(ids), np.bool_), SIZE)]

    return Request(np.array(ids, np.int64), (1,), cut, extras)


def expected(stored: Images, ids: Sequence[int]) -> Tensor:
    """Return the views of the CPU, (B, C, S, S)."""
    views = [center_view(stored[number], resize=RESIZE, size=SIZE) for number in ids]
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) / 255


def fed(stored: Images, batches: Sequence[Sequence[int]], queues: Queues) -> list[FedBatch]:
    feed = Feed(source_of(stored), channels=3, device=queues, is_verified=True, num_slots=3)
    return list(feed.batches(map(request_for, batches), workers=2))


def test_slot__an_empty_batch_is_on_the_device_too() -> None:
    """As a rank has one, where the last batch has fewer images than there are ranks."""
    slot = Slot(Queues.of("meta"))
    slot.reserve(0)

    assert slot.send(0).device.type == "meta"


BATCHES = [list(range(start, start + 20)) for start in range(0, NUM_IMAGES - 20, 20)]


@pytest.mark.parametrize("workers", [1, 3])
def test_feed__has_the_views_of_the_cpu(stored: Images, workers: int) -> None:
    generator = np.random.default_rng(0)
    batches = [generator.integers(NUM_IMAGES, size=size).tolist() for size in (9, 1, 30, 30, 17)]
    feed = Feed(source_of(stored), channels=3, device="cpu", is_verified=True)

    found = list(feed.batches(map(request_for, batches), workers=workers))

    for batch, ids in zip(found, batches, strict=True):
        torch.testing.assert_close(
            batch.views[0], expected(stored, ids), rtol=0, atol=ROUNDING, msg=str(ids)
        )


def test_feed__takes_extras_along(stored: Images) -> None:
    # Sizes that are no multiple of the alignment.
    extras = (np.arange(3, dtype=np.int64)[None], np.array([0.5, 1, 2], np.float32))
    feed = Feed(source_of(stored), channels=3, device="cpu")

    (batch,) = feed.batches([request_for([4, 2, 1], extras=extras)], workers=1)

    assert [extra.dtype for extra in batch.extras] == [torch.int64, torch.float32]
    for found, extra in zip(batch.extras, extras, strict=True):
        np.testing.assert_array_equal(found.numpy(), extra)
    torch.testing.assert_close(batch.views[0], expected(stored, [4, 2, 1]), rtol=0, atol=ROUNDING)


def test_feed__a_batch_without_images(stored: Images) -> None:
    feed = Feed(source_of(stored), channels=3, device="cpu")

    (batch,) = feed.batches([request_for([])], workers=1)

    assert batch.views[0].shape == (0, 3, SIZE, SIZE)


def test_feed__is_right_on_a_device_that_does_everything_late(stored: Images) -> None:
    queues, computing = late_queues()

    found = fed(stored, BATCHES, queues)
    computing.record().synchronize()

    for batch, ids in zip(found, BATCHES, strict=True):
        torch.testing.assert_close(
            batch.views[0], expected(stored, ids), rtol=0, atol=ROUNDING, msg=str(ids)
        )


def test_feed__a_slot_that_is_used_too_early_would_be_noticed(
    stored: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LateMarker, "is_broken", True)
    queues, computing = late_queues()

    found = fed(stored, BATCHES, queues)
    computing.run(len(computing._works))  # pyright: ignore[reportPrivateUsage]

    is_right = [
        torch.allclose(batch.views[0], expected(stored, ids), rtol=0, atol=ROUNDING)
        for batch, ids in zip(found, BATCHES, strict=True)
    ]
    assert not all(is_right[:-3])
    assert all(is_right[-3:]), "nothing came after the last batches of the slots"


def test_feed__device_memory_that_is_overwritten_too_early_would_be_noticed(
    stored: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues, computing = late_queues()
    monkeypatch.setattr(queues.copying, "wait_for", lambda _marker: None)

    found = fed(stored, BATCHES, queues)
    computing.record().synchronize()

    assert not all(
        torch.allclose(batch.views[0], expected(stored, ids), rtol=0, atol=ROUNDING)
        for batch, ids in zip(found, BATCHES, strict=True)
    )


def test_feed__ends_its_threads_when_the_caller_stops(stored: Images) -> None:
    feed = Feed(source_of(stored), channels=3, device="cpu", num_slots=2)
    batches = feed.batches((request_for(ids) for ids in BATCHES), workers=3)

    with closing(batches):
        next(batches)

    assert not [one.name for one in threading.enumerate() if one.name.startswith("loader")]


def test_ring__closing_ends_the_waiting_for_a_slot() -> None:
    ring = Ring(Queues.of("cpu"), num_slots=1)
    ring.slot(0)
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            ring.slot(1)
        except FeedClosedError as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ring.close()
    thread.join(timeout=30)

    assert len(seen) == 1


# Packed bytes


@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_source_of__copies_the_pixels_of_any_encoding(
    encoding: Encoding, channels: int, tmp_path: Path
) -> None:
    drawn = pictures(20, channels=channels)
    stored = Images(pack(tmp_path / "images", drawn, encoding))
    ids = np.array([3, 4, 5, 19, 0, 3, 2])  # some follow each other, one comes twice

    source = source_of(stored)
    memory: list[NDArray[np.uint8]] = []

    def allocate(size: int) -> NDArray[np.uint8]:
        memory.append(np.zeros(size, np.uint8))
        return memory[0]

    layout = source.copy(ids, allocate, is_verified=True)

    assert isinstance(source, DecodedImages) == (encoding == "png")
    for image_id, offset, height, width in zip(
        ids, layout.offset_B, layout.height_B, layout.width_B, strict=True
    ):
        shape = (height, width, channels)
        found_HWC = memory[0][offset : offset + np.prod(shape)].reshape(shape)
        np.testing.assert_array_equal(found_HWC, drawn[image_id])


def test_packed_pixels__finds_a_damaged_image(tmp_path: Path) -> None:
    drawn = pictures(20)
    folder = pack(tmp_path / "images", drawn, "raw")
    (part,) = (folder / "pixels").glob("part-*.arrow")
    content = bytearray(part.read_bytes())
    place = content.index(drawn[7].tobytes())
    content[place + 5] ^= 1
    part.write_bytes(content)
    feed = Feed(source_of(Images(folder)), channels=3, device="cpu", is_verified=True)

    with pytest.raises(ArtifactError, match=r"image 7 is damaged \(its checksum differs\)"):
        list(feed.batches([request_for(range(20))], workers=1))

    unchecked = Feed(source_of(Images(folder)), channels=3, device="cpu", is_verified=False)
    assert len(list(unchecked.batches([request_for(range(20))], workers=1))) == 1
