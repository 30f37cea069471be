"""Images in, measures without labels out. Suffixes: N images, V views, D dimensions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.context import Context
from deepcluster_core.data.views import RandomCrop, augmentation_draws, random_views
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations.rank import EVALUATION, MEASURES, RankConfig
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import read_results
from stages.train import TrainConfig
from tests.margins import SEED

CONTEXT = Context(seed=SEED, epoch=0)
Row = dict[str, Any]
Rank = Callable[..., list[Row]]


def protocol(**changes: object) -> RankConfig:
    """Return the shipped protocol, in float32 and for a small data set."""
    given = {"precision": "float32", "images": 60, "views": 3} | changes
    return load_protocol(PROTOCOLS / "rank.yaml", RankConfig, given)


@pytest.fixture
def rank(images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path) -> Rank:
    """Return a function that evaluates the shared artifacts, or others, and reads the rows."""

    def of(*, keys: dict[str, object] | None = None, **others: object) -> list[Row]:
        given: dict[str, Any] = {
            "network": network,
            "images": images,
            "checkpoint": checkpoint,
            "context": CONTEXT,
        } | others
        EVALUATION.run(protocol=protocol(**(keys or {})), out=tmp_path / "rank", **given)
        return read_results(tmp_path / "rank")

    return of


def own_features(images: Path, network: NetworkConfig, checkpoint: Path) -> NDArray[np.float64]:
    """Return the features (N, V, D) of the views that the protocol describes, one by one."""
    pictures = Images(images)
    drawn_N = seeding.numpy_generator(SEED, "rank", "images").choice(240, 60, replace=False)
    crop = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
    seed = seeding.derive(SEED, "rank", "views")
    model = restore_network(
        network, channels=pictures.channels, seed=SEED, checkpoint=checkpoint
    ).eval()
    features: list[torch.Tensor] = []
    for number in range(60 * 3):
        image_HWC = pictures[int(np.sort(drawn_N)[number // 3])]
        draws_1R = augmentation_draws(seed, number, 1)
        view_1SSC = random_views([image_HWC], draws_1R, crop, size=network.image_size)
        with torch.inference_mode():
            features.append(model.feature(torch.from_numpy(view_1SSC).permute(0, 3, 1, 2)))
    return torch.cat(features).double().numpy().reshape(60, 3, -1)


def test_run__measures_the_views_of_the_protocol(
    rank: Rank, images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path
) -> None:
    rows = rank()

    assert [row["network"] for row in rows] == ["random", "epoch 0"]
    feature_NVD = own_features(images, network, checkpoint)
    row = rows[1]
    assert row["width"] == feature_NVD.shape[2]
    singular = np.linalg.svd(feature_NVD.reshape(180, -1), compute_uv=False)
    share = singular / singular.sum()
    share = share[share > 1e-7]
    # 1e-2: the smallest singular values are sensitive to float32 features computed in batches.
    assert row["rankme"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-2)
    unit_NVD = feature_NVD / np.linalg.norm(feature_NVD, axis=2, keepdims=True)
    gap_N = [np.square(views_VD[:, None] - views_VD[None]).sum() / (3 * 2) for views_VD in unit_NVD]
    assert row["alignment"] == pytest.approx(np.mean(gap_N), rel=1e-3)
    first_ND = unit_NVD[:, 0]
    squared_NN = np.square(first_ND[:, None] - first_ND[None]).sum(axis=2)
    energy_P = np.exp(-2 * squared_NN[np.triu_indices(60, 1)])
    assert row["uniformity"] == pytest.approx(np.log(energy_P.mean()), rel=1e-3)
    assert 1 < row["lidar"] < 60
    assert read_manifest(tmp_path / "rank").facts["images"] == 60


def test_run__how_it_is_computed_changes_nothing(rank: Rank) -> None:
    def measures(rows: list[Row]) -> list[float]:
        return [row[name] for row in rows for name in MEASURES]

    # Convolutions of other batches round differently: float32 features.
    assert measures(rank(keys={"batch_size": 7})) == pytest.approx(measures(rank()), rel=1e-2)


def test_run__takes_all_images_if_there_are_fewer(rank: Rank, tmp_path: Path) -> None:
    rank(keys={"images": 1000, "views": 2}, checkpoint=None)

    assert read_manifest(tmp_path / "rank").facts["images"] == 240
    assert [row["network"] for row in read_results(tmp_path / "rank")] == ["random"]


def test_run__views_that_differ_more_are_aligned_less(rank: Rank) -> None:
    mild = rank(keys={"crop_area": [0.9, 1.0], "flip": 0.0})
    strong = rank(keys={"crop_area": [0.08, 0.3]})

    assert mild[1]["alignment"] < strong[1]["alignment"]


def test_protocol__its_crop_is_the_default_of_training() -> None:
    shipped, training = protocol(), TrainConfig()
    assert shipped.crop_area == training.crop_area
    assert shipped.crop_ratio == training.crop_ratio
    assert shipped.flip == training.flip
