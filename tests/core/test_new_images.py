"""Suffixes: S pixels of a view's side, C channels, D values of a feature."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.data.decode import UnreadableImageError
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.device_feed import crops
from deepcluster_core.device_feed.central import CentralCrops, fed_central_views
from deepcluster_core.features import extract_features
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.new_images import READ_AT_ONCE, Forward, Pixels, features_of
from tests.core.artifacts.test_images import pack, pictures
from tests.support.fake_cuda import fake_gpus

SMALL = NetworkConfig(name="smallnet", image_size=16)
FORWARD = Forward(layer=None, batch_size=10, device="cpu", precision="float32")
WORKERS = 2


def images(count: int, asked: list[int] | None = None) -> Iterator[SourceImage]:
    """Yield images of one value each; note in `asked` which were asked for."""
    for number in range(count):
        if asked is not None:
            asked.append(number)
        yield SourceImage(str(number), None, lambda number=number: bytes([number % 256]))


def view(data: bytes) -> Pixels:
    """Return noise that depends on the value; 7 and 50 cannot be read."""
    if data[0] in (7, 50):
        raise UnreadableImageError(f"it is {data[0]}")
    return np.random.default_rng(data[0]).integers(0, 256, (16, 16, 3), np.uint8)


def skip_nothing(path: str, reason: str) -> None:
    raise AssertionError(f"{path}: {reason}")


def test_features_of__readable_images_come_in_order_with_their_paths() -> None:
    network = build_network(SMALL, channels=3, seed=1)
    skipped: list[tuple[str, str]] = []

    found = [
        *features_of(
            network,
            images(75),
            view,
            FORWARD,
            skip=lambda path, reason: skipped.append((path, reason)),
            workers=WORKERS,
        )
    ]

    assert skipped == [("7", "it is 7"), ("50", "it is 50")]
    readable = [number for number in range(75) if number not in (7, 50)]
    assert [path for paths, _ in found for path in paths] == [str(number) for number in readable]
    assert [len(feature_BD) for _, feature_BD in found] == [10] * 7 + [3]
    views_NSSC = torch.from_numpy(np.stack([view(bytes([number])) for number in readable]))
    with torch.no_grad():
        wanted_ND = (
            build_network(SMALL, channels=3, seed=1).eval().feature(views_NSSC.permute(0, 3, 1, 2))
        )
    found_ND = torch.from_numpy(np.concatenate([feature_BD for _, feature_BD in found]))
    torch.testing.assert_close(found_ND, wanted_ND, rtol=1e-4, atol=1e-5)


def test_features_of__reads_ahead_no_further_than_the_threads_need() -> None:
    network, asked = build_network(SMALL, channels=3, seed=1), list[int]()
    endless = images(10**9, asked)

    def plain(_data: bytes) -> Pixels:
        return np.zeros((16, 16, 3), np.uint8)

    coming = features_of(network, endless, plain, FORWARD, skip=skip_nothing, workers=WORKERS)
    for _ in range(20):
        next(coming)
    coming.close()  # pyright: ignore[reportAttributeAccessIssue]

    assert len(asked) <= 20 * 10 + (2 * WORKERS + 2) * READ_AT_ONCE


FED = replace(FORWARD, crops=CentralCrops(SMALL, channels=3, resize=20))


def test_features_of__images_of_a_run_have_its_features_where_a_device_is_fed(
    tmp_path: Path,
) -> None:
    drawn = pictures(25)
    stored = Images(pack(tmp_path / "images", drawn, "raw"))
    context = Context(seed=0, feed="device")

    found = features_of(
        build_network(SMALL, channels=3, seed=1),
        images(25),
        lambda data: drawn[data[0]],
        FED,
        skip=skip_nothing,
        workers=WORKERS,
    )

    views = fed_central_views(
        stored, SMALL, resize=20, batch_size=10, batches=range(3), context=context
    )
    network = build_network(SMALL, channels=3, seed=1)
    expected = extract_features(network, views, layer=None, device="cpu", precision="float32")
    for (paths, found_BD), expected_BD in zip(found, expected, strict=True):
        assert len(paths) == len(found_BD)
        np.testing.assert_array_equal(found_BD, expected_BD)


def test_features_of__makes_its_views_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # A fake GPU runs no kernel of Triton.
    monkeypatch.setattr(crops, "has_triton", lambda _device: False)
    network, drawn = build_network(SMALL, channels=3, seed=1), pictures(25)
    forward = replace(FED, device="cuda:1")

    with fake_gpus() as seen:
        found = list(
            features_of(
                network,
                images(25),
                lambda data: drawn[data[0]],
                forward,
                skip=skip_nothing,
                workers=WORKERS,
            )
        )

    assert [len(paths) for paths, _ in found] == [10, 10, 5]
    assert seen == {"cpu", "cuda:1"}
    assert seen.num_waits == 0, "a batch waited for the GPU"
