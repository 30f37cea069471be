"""Suffixes: S pixels of a view's side, C channels, D values of a feature."""

from collections.abc import Iterator

import numpy as np
import torch

from deepcluster_core.data.decode import UnreadableImageError
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.new_images import READ_AT_ONCE, Forward, Pixels, features_of

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
