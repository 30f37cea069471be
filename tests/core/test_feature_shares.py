"""The work of extraction divided among ranks. Suffixes: N images, D dimensions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core import feature_shares
from deepcluster_core.artifacts.features import Features, create_features, write_shards
from deepcluster_core.feature_shares import FeatureShare
from deepcluster_core.ranks import ALONE, Ranks
from tests.support.ranks import on_ranks

BATCH = 16
DIM = 3


def row_ND(num: int) -> NDArray[np.float32]:
    """Rows that carry their own number."""
    return np.repeat(np.arange(num, dtype=np.float32)[:, None], DIM, axis=1)


def created(folder: Path, num_images: int) -> Features:
    return create_features(folder, num_images=num_images, dim=DIM, dtype="float32")


def computed(share: FeatureShare, num_images: int) -> Iterator[NDArray[np.float32]]:
    """Yield the features of the batches that a share asks for."""
    for number in share.batches:
        yield row_ND(num_images)[number * BATCH : (number + 1) * BATCH]


def extract(array: Features, ranks: Ranks, told: list[int] | None = None) -> None:
    """Write the share of a rank."""
    share = FeatureShare(array, ranks, batch_size=BATCH)
    report = (told if told is not None else []).append
    features = computed(share, array.num_images)
    write_shards(array, share.missing, share.rows_to_write(features, report))


def stored(array: Features) -> NDArray[np.floating]:
    return np.concatenate(list(array.blocks()))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("num_images", [1, 5, 100, 241])
def test_feature_share__ranks_write_all_rows(tmp_path: Path, size: int, num_images: int) -> None:
    array = created(tmp_path, num_images)

    on_ranks(size, lambda ranks: extract(array, ranks))

    np.testing.assert_array_equal(stored(array), row_ND(num_images))


def test_feature_share__shards_of_the_ranks_do_not_overlap(tmp_path: Path) -> None:
    array = created(tmp_path, 241)

    shares = on_ranks(3, lambda ranks: FeatureShare(array, ranks, batch_size=BATCH).shards)

    assert [number for shards in shares for number in shards] == list(range(array.num_shards))
    assert array.num_shards == 8, "enough for many ranks, although all rows fit into one chunk"


@pytest.mark.parametrize("size", [1, 4])
def test_feature_share__computes_missing_shards_alone(tmp_path: Path, size: int) -> None:
    array = created(tmp_path, 240)
    extract(array, ALONE)
    for number in (0, 5):
        array.shard(number).unlink()

    shares = on_ranks(size, lambda ranks: FeatureShare(array, ranks, batch_size=BATCH))

    assert [number for share in shares for number in share.missing] == [0, 5]
    assert sorted(number for share in shares for number in share.shards) == list(range(8))
    # 30 rows a shard: shard 0 lies in batches 0 and 1, and shard 5, rows 150 to 179, in 9 to 11.
    assert [number for share in shares for number in share.batches] == [0, 1, 9, 10, 11]


def test_feature_share__missing_shards_are_divided_anew(tmp_path: Path) -> None:
    array = created(tmp_path, 240)
    extract(array, ALONE)
    for number in range(4, 8):
        array.shard(number).unlink()

    shares = on_ranks(2, lambda ranks: FeatureShare(array, ranks, batch_size=BATCH))

    assert [share.missing for share in shares] == [[4, 5], [6, 7]]
    assert [share.shards for share in shares] == [[0, 1, 2, 3, 4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("num_missing", "num_meetings"),
    [
        pytest.param(8, 5, id="the last of three ranks has three shards of 63 rows"),
        pytest.param(1, 1, id="it alone has something to do"),
    ],
)
def test_feature_share__ranks_meet_equally_often(
    num_missing: int, num_meetings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_shares, "MEETING_IMAGES", 32)
    array = created(tmp_path, 500)
    assert array.num_shards == 8
    if num_missing == 1:
        extract(array, ALONE)
        array.shard(3).unlink()

    def work(ranks: Ranks) -> int:
        names: list[str] = []
        barrier = ranks.barrier

        def noted(name: str) -> None:
            names.append(name)
            barrier(name)

        monkeypatch.setattr(ranks, "barrier", noted)
        extract(array, ranks)
        return len(names)

    assert on_ranks(3, work) == [num_meetings] * 3
    np.testing.assert_array_equal(stored(array), row_ND(500))


def test_feature_share__tells_how_far_it_is(tmp_path: Path) -> None:
    array = created(tmp_path, 240)
    told: list[int] = []
    extract(array, ALONE, told)
    assert told == list(range(BATCH, 241, BATCH))

    for number in range(4):
        array.shard(number).unlink()
    told.clear()
    extract(array, ALONE, told)

    # 120 images are on disk; the batch that holds image 119 also holds 8 of those.
    assert told == [*range(120 + BATCH, 240, BATCH), 240]


def test_feature_share__counts_the_images_of_all_ranks(tmp_path: Path) -> None:
    array = created(tmp_path, 240)

    def work(ranks: Ranks) -> list[int]:
        told: list[int] = []
        extract(array, ranks, told)
        return told

    first, second = on_ranks(2, work)

    assert (first[0], first[-1], second[-1]) == (2 * BATCH, 240, 240)
