"""The batches of the train stage. Suffixes: B images of a batch, N images, M draws."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context, FeedName
from deepcluster_core.data.augment import Augmentation
from deepcluster_core.data.augment_config import BlurConfig, ColourConfig, NoiseConfig, ViewsConfig
from deepcluster_core.data.views import RandomCrop, augmentation_draws, random_views
from deepcluster_core.features import ViewBatch
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.ranks import Ranks
from deepcluster_core.seeding import derive
from deepcluster_core.training.batches import Batches
from deepcluster_core.training.epoch import Batch
from deepcluster_core.training.plan import Cuts, Plan
from stages.train import (
    TrainConfig,
    _batches,  # pyright: ignore[reportPrivateUsage]
)
from tests.support.ranks import on_ranks

NUM_DRAWS = 23
EPOCH_4 = Context(seed=31, epoch=4)
SEVERAL = TrainConfig(
    batch_size=8,
    views=(
        ViewsConfig(count=2, size=12, area=(0.3, 1.0)),
        ViewsConfig(count=3, size=8, area=(0.05, 0.3)),
    ),
    flip_vertical=0.5,
    turn=0.5,
    colour=ColourConfig(brightness=0.4, contrast=0.4),
    blur=BlurConfig(),
    noise=NoiseConfig(),
)
BRIGHTER = ColourConfig(brightness=0.2)


class CountedImages(Images):
    """Images that record which of them are read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read: list[int] = []

    def __getitem__(self, image_id: int) -> NDArray[np.uint8]:
        self.read.append(int(image_id))
        return super().__getitem__(image_id)


@pytest.fixture
def stored(images: Path) -> CountedImages:
    return CountedImages(images)


def batches(stored: Images, train: TrainConfig, context: Context = EPOCH_4) -> Batches:
    generator = np.random.default_rng(0)
    cluster_N = generator.integers(5, size=len(stored), dtype=np.int32)
    order_M = generator.integers(len(stored), size=NUM_DRAWS)
    second_N = (cluster_N + 1) % 5
    plan = Plan(
        order_M,
        cluster_N[None],
        np.arange(5, dtype=np.float32),
        second_N[None],
        np.linspace(0, 0.5, len(stored), dtype=np.float16)[None],
    )
    cuts = Cuts(NUM_DRAWS, train.batch_size if train.batch_size != "auto" else 64)
    return _batches(stored, plan, cuts, train, NetworkConfig(image_size=12), context)


def loaded(stored: Images, train: TrainConfig, context: Context = EPOCH_4) -> list[Batch]:
    return list(batches(stored, train, context).from_step(0, workers=2))


def by_position(parts: Sequence[Batch]) -> list[NDArray[np.uint8]]:
    """Return, for each kind, the views (V, M, S, S, C) of all positions."""
    kinds: list[NDArray[np.uint8]] = []
    for kind, count in enumerate(parts[0].num_views):
        views = [np.asarray(part.views[kind]) for part in parts]
        kinds.append(
            np.concatenate([one.reshape(count, -1, *one.shape[1:]) for one in views], axis=1)
        )
    return kinds


def assert_equal(one: Sequence[ViewBatch], other: Sequence[ViewBatch]) -> None:
    for one_kind, other_kind in zip(one, other, strict=True):
        # Without a kernel, the last bits of a view depend on the sizes of the others in its batch.
        tolerance = 0 if np.asarray(one_kind).dtype == np.uint8 else 1e-6
        np.testing.assert_allclose(one_kind, other_kind, rtol=0, atol=tolerance)


def test_batches__of_deepcluster_have_one_view_and_one_clustering(stored: CountedImages) -> None:
    train = TrainConfig(batch_size=8, balance="weigh")

    found = loaded(stored, train)

    plan = batches(stored, train).plan
    ids_M = np.concatenate([batch.image_id_B for batch in found])
    assert [batch.num_images for batch in found] == [8, 8, 7]
    np.testing.assert_array_equal(ids_M, plan.order_M)
    for batch in found:
        assert batch.num_views == (1,)
        assert batch.share is None
        np.testing.assert_array_equal(batch.cluster_HB, plan.cluster_HN[:, batch.image_id_B])
        np.testing.assert_array_equal(batch.weight_B, plan.cluster_HN[0, batch.image_id_B])
        np.testing.assert_array_equal(batch.second_HB, (batch.cluster_HB + 1) % 5)
        assert plan.second_share_HN is not None
        np.testing.assert_array_equal(
            batch.second_share_HB, plan.second_share_HN[:, batch.image_id_B]
        )
    # The stream of the first release, at the positions 8 to 15.
    crop = RandomCrop(train.crop_area, train.crop_ratio, train.flip)
    draws_BR = augmentation_draws(derive(31, 4, "train", "augment"), 8, 8)
    pixels = [stored[int(number)] for number in ids_M[8:16]]
    expected_BSSC = random_views(pixels, draws_BR, crop, size=12)
    np.testing.assert_array_equal(found[1].views[0], expected_BSSC)


def test_batches__of_one_kind_with_one_view_are_those_of_crop_area(stored: CountedImages) -> None:
    one = TrainConfig(batch_size=8, views=(ViewsConfig(count=1, size=12, area=(0.2, 0.7)),))

    found = loaded(stored, one)

    expected = loaded(stored, TrainConfig(batch_size=8, crop_area=(0.2, 0.7)))
    assert_equal(by_position(found), by_position(expected))


FED = replace(EPOCH_4, feed="device")
CROPS_ALONE = SEVERAL.model_copy(
    update=dict.fromkeys(("flip_vertical", "turn", "colour", "blur", "noise"))
)


@pytest.mark.parametrize("train", [TrainConfig(batch_size=8, balance="weigh"), CROPS_ALONE])
def test_batches__fed_on_the_device_are_those_of_the_host(
    train: TrainConfig, stored: CountedImages
) -> None:
    found = loaded(stored, train, FED)

    expected = loaded(stored, train)
    assert len(found) == len(expected)
    for batch, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(batch.image_id_B, other.image_id_B)
        np.testing.assert_array_equal(batch.cluster_HB, other.cluster_HB)
        assert (batch.weight_B is None) == (other.weight_B is None)
        if batch.weight_B is not None:
            np.testing.assert_array_equal(batch.weight_B, other.weight_B)
        assert batch.second_HB is not None
        np.testing.assert_array_equal(batch.second_HB, other.second_HB)
        assert batch.second_share_HB is not None
        np.testing.assert_array_equal(batch.second_share_HB, other.second_share_HB)
        for views_XCSS, views_XSSC in zip(batch.views, other.views, strict=True):
            as_host_XSSC = np.asarray(views_XCSS).transpose(0, 2, 3, 1) * 255.0
            # The host rounds to whole values, once in each direction.
            np.testing.assert_allclose(as_host_XSSC, views_XSSC, rtol=0, atol=1 + 1e-3)


def test_batches__fed_on_the_device_go_on_at_any_step(stored: CountedImages) -> None:
    whole = loaded(stored, CROPS_ALONE, FED)

    rest = batches(stored, CROPS_ALONE, FED).from_step(1, workers=1)

    for batch, expected in zip(rest, whole[1:], strict=True):
        assert_equal(batch.views, expected.views)


def test_batches__other_augmentations_are_made_on_the_host(stored: CountedImages) -> None:
    assert_equal(by_position(loaded(stored, SEVERAL, FED)), by_position(loaded(stored, SEVERAL)))


def test_batches__read_an_image_once_for_all_views(stored: CountedImages) -> None:
    found = loaded(stored, SEVERAL)

    assert len(stored.read) == NUM_DRAWS
    assert [view.shape for view in found[0].views] == [(16, 12, 12, 1), (24, 8, 8, 1)]
    assert found[0].num_views == (2, 3)


@pytest.mark.parametrize("batch_size", [2, 7, 23])
def test_batches__views_do_not_depend_on_the_batch_size(
    stored: CountedImages, batch_size: int
) -> None:
    other = loaded(stored, SEVERAL.model_copy(update={"batch_size": batch_size}))

    assert_equal(by_position(other), by_position(loaded(stored, SEVERAL)))


def test_batches__go_on_at_any_step(stored: CountedImages) -> None:
    whole = loaded(stored, SEVERAL)

    for step in range(4):
        rest = list(batches(stored, SEVERAL).from_step(step, workers=1))
        assert len(rest) == 3 - step
        for one, other in zip(rest, whole[step:], strict=True):
            assert_equal(one.views, other.views)


@pytest.mark.parametrize("feed", ["host", "device"])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_batches__of_ranks_are_parts_of_the_whole(
    stored: CountedImages, size: int, feed: FeedName
) -> None:
    train = SEVERAL if feed == "host" else CROPS_ALONE
    whole = loaded(stored, train, replace(EPOCH_4, feed=feed))

    def work(ranks: Ranks) -> list[Batch]:
        return loaded(stored, train, replace(EPOCH_4, feed=feed, ranks=ranks))

    found = on_ranks(size, work)

    # With 8 ranks, one has no image of the last batch.
    for parts, batch in zip(zip(*found, strict=True), whole, strict=True):
        assert_equal(by_position(parts), by_position([batch]))
        ids_B = np.concatenate([part.image_id_B for part in parts])
        np.testing.assert_array_equal(ids_B, batch.image_id_B)
        assert {part.num_images for part in parts} == {batch.num_images}


def test_batches__differ_from_epoch_to_epoch(stored: CountedImages) -> None:
    one, other = (
        by_position(loaded(stored, SEVERAL, Context(seed=31, epoch=epoch))) for epoch in (0, 1)
    )

    for one_kind, other_kind in zip(one, other, strict=True):
        differ = (one_kind != other_kind).any(axis=(2, 3, 4))
        assert differ.mean() > 0.95  # two plain views can be equal


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (TrainConfig(), Augmentation()),
        (TrainConfig(flip_vertical=0.25), Augmentation(flip_vertical=0.25)),
        (TrainConfig(turn=0.25), Augmentation(turn=0.25)),
        (TrainConfig(colour=BRIGHTER), Augmentation(colour=BRIGHTER)),
        (TrainConfig(blur=BlurConfig()), Augmentation(blur=BlurConfig())),
        (TrainConfig(noise=NoiseConfig()), Augmentation(noise=NoiseConfig())),
    ],
)
def test_batches__take_each_augmentation_from_its_key(
    stored: CountedImages, train: TrainConfig, expected: Augmentation
) -> None:
    views = batches(stored, train).views

    assert views.augmentation == expected
    assert views.are_only_crops == (expected == Augmentation())


NOTHING = TrainConfig(
    flip_vertical=0,
    turn=0,
    colour=ColourConfig(brightness=0.4, hue=0.1, probability=0),
    blur=BlurConfig(probability=0),
    noise=NoiseConfig(probability=0),
)


@pytest.mark.parametrize(
    ("changes", "are_only_crops"),
    [
        ({}, True),
        ({"colour": ColourConfig()}, True),  # without a strength
        ({"colour": ColourConfig(grey=0.2, probability=0)}, False),
        ({"colour": ColourConfig(contrast=0.2)}, False),
        ({"turn": 0.1}, False),
        ({"blur": BlurConfig(probability=0.1)}, False),
        ({"noise": NoiseConfig(probability=0.1)}, False),
    ],
)
def test_batches__what_can_change_no_view_leaves_crops_to_the_device(
    changes: dict[str, Any], are_only_crops: bool, stored: CountedImages
) -> None:
    views = batches(stored, NOTHING.model_copy(update=changes)).views

    assert views.are_only_crops is are_only_crops


def test_batches__what_can_change_no_view_gives_plain_crops(stored: CountedImages) -> None:
    crops, same = (loaded(stored, train) for train in (TrainConfig(), NOTHING))

    assert_equal(by_position(same), by_position(crops))
