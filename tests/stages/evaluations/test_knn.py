"""Images in, how often neighbours tell the class out. Suffixes: N, M images, D values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from sklearn.neighbors import KNeighborsClassifier

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import MODEL
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError, ConfigError, FeatureError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.progress import silent
from deepcluster_core.ranks import Ranks
from stages.evaluations.knn import EVALUATION, KnnConfig
from stages.evaluations.shared.labelled import open_labelled
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import read_results
from stages.extract import ExtractConfig, extract
from tests.margins import SEED, above
from tests.support.artifacts import Relabel
from tests.support.ranks import on_ranks

CONTEXT = Context(seed=SEED, epoch=0)

Row = dict[str, Any]
Knn = Callable[..., list[Row]]


def protocol(**changes: object) -> KnnConfig:
    """Return the shipped protocol, in float32 and for a small data set."""
    given = {"precision": "float32", "ks": [1, 5, 20], "resize": 20} | changes
    return load_protocol(PROTOCOLS / "knn.yaml", KnnConfig, given)


@pytest.fixture
def knn(images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path) -> Knn:
    """Return a function that evaluates the shared artifacts, or others, and reads the rows."""

    def of(*, keys: dict[str, object] | None = None, **others: object) -> list[Row]:
        given: dict[str, Any] = {
            "network": network,
            "images": images,
            "validation": None,
            "checkpoint": checkpoint,
            "supervised": None,
            "context": CONTEXT,
        } | others
        EVALUATION.run(protocol=protocol(**(keys or {})), out=tmp_path / "knn", **given)
        return read_results(tmp_path / "knn")

    return of


@pytest.mark.learns
def test_run__a_row_for_each_network_and_k(knn: Knn, checkpoint: Path, tmp_path: Path) -> None:
    rows = knn(supervised=checkpoint / MODEL)

    assert [(row["network"], row["k"]) for row in rows] == [
        (name, k) for name in ("random", "epoch 0", "supervised") for k in (1, 5, 20)
    ]
    assert {row["chance"] for row in rows} == {25.0}, "four classes of equal size"
    assert all(row["top1"] <= 100 for row in rows)
    least = min(row["top1"] for row in rows)
    assert above("k-NN: least top-1", least, 25), "shapes are not that hard to tell"
    trained, supervised = rows[3:6], rows[6:]
    assert [row["top1"] for row in trained] == [row["top1"] for row in supervised]
    manifest = read_manifest(tmp_path / "knn")
    assert inspect(tmp_path / "knn")[0] is Condition.WHOLE
    assert manifest.stage == EVALUATION.stage.name
    assert manifest.epoch == 0
    assert manifest.facts["training_images"] == 192
    assert manifest.facts["validation_images"] == 48


def test_run__the_features_are_those_of_extract(
    knn: Knn, images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path
) -> None:
    extract.run(
        extract=ExtractConfig(resize=20, precision="float32", dtype="float32"),
        network=network,
        images=images,
        checkpoint=checkpoint,
        out=tmp_path / "features",
        context=CONTEXT,
    )
    features_ND = np.concatenate(list(Features(tmp_path / "features").blocks()))
    data = open_labelled(images, None, validation_fraction=0.2, seed=31)
    reference = KNeighborsClassifier(
        5,
        metric="cosine",
        algorithm="brute",
        weights=lambda d: np.exp((1 - d) / 0.07),  # pyright: ignore[reportArgumentType]  a stub
    )
    reference.fit(features_ND[data.training.image_id_N], data.training.class_N)
    expected = reference.score(features_ND[data.validation.image_id_N], data.validation.class_N)

    by_k = {row["k"]: row["top1"] for row in knn() if row["network"] == "epoch 0"}

    assert by_k[5] == pytest.approx(100 * expected)


@pytest.mark.parametrize("keys", [{"batch_size": 7}, {"ks": [20, 1, 5]}])
def test_run__how_it_is_computed_changes_nothing(knn: Knn, keys: dict[str, object]) -> None:
    def told(rows: list[Row]) -> dict[tuple[str, int], float]:
        return {(row["network"], row["k"]): row["top1"] for row in rows}

    assert told(knn(keys=keys)) == told(knn())


@pytest.mark.usefixtures("seeded_in_turn")
def test_run__any_number_of_ranks_writes_the_same_table(knn: Knn, tmp_path: Path) -> None:
    alone = knn(keys={"batch_size": 16})
    digest = read_manifest(tmp_path / "knn").digest
    told: list[tuple[int, int | None]] = []

    def work(ranks: Ranks) -> None:
        progress = silent if ranks.rank else lambda done, total: told.append((done, total))
        context = Context(seed=SEED, epoch=0, ranks=ranks, progress=progress)
        knn(keys={"batch_size": 16}, context=context)

    on_ranks(3, work)

    assert read_results(tmp_path / "knn") == alone
    manifest = read_manifest(tmp_path / "knn")
    assert (manifest.digest, manifest.ranks) == (digest, 3)
    assert told[-1] == (2 * 240, 2 * 240), "the first rank counts the images of all"


def test_run__progress_counts_the_images_of_all_networks(knn: Knn) -> None:
    told: list[tuple[int, int | None]] = []

    def note(done: int, total: int | None) -> None:
        told.append((done, total))

    knn(context=Context(seed=31, epoch=0, progress=note))

    assert told[-1] == (480, 480)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_run__without_a_checkpoint_the_random_network_alone(knn: Knn) -> None:
    assert {row["network"] for row in knn(checkpoint=None)} == {"random"}


def test_run__images_that_are_trained_on_find_themselves(
    knn: Knn, images: Path, relabelled: Relabel
) -> None:
    same = relabelled(lambda table: ["bar", *table.label[1:]])  # the same pictures, sealed anew

    rows = knn(images=same, validation=images, keys={"ks": [1]})

    assert [row["top1"] for row in rows] == [100.0, 100.0]


def test_run__another_layer_and_other_weights_are_another_artifact(
    knn: Knn, network: NetworkConfig, tmp_path: Path
) -> None:
    def key(**changes: object) -> str:
        knn(**changes)
        return read_manifest(tmp_path / "knn").key

    other = restore_network(network, channels=1, seed=5, checkpoint=None)
    weights = tmp_path / "weights.safetensors"
    save_file({name: t.contiguous() for name, t in other.state_dict().items()}, weights)

    keys = [key(), key(), key(keys={"layer": "conv2"}), key(supervised=weights)]

    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_run__leaves_out_more_neighbours_than_there_are(knn: Knn, tmp_path: Path) -> None:
    rows = knn(keys={"ks": [1, 193]})

    assert {row["k"] for row in rows} == {1}
    assert read_manifest(tmp_path / "knn").facts["ks_left_out"] == [193]


def test_run__refuses_what_cannot_be_computed(
    knn: Knn, relabelled: Relabel, network: NetworkConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"193 neighbours are asked for, but there are 192 "):
        knn(keys={"ks": [193, 200]})
    with pytest.raises(ConfigError, match="resize: 15 px is smaller"):
        knn(keys={"resize": 15})
    with pytest.raises(ConfigError, match="layer 'conv9' is unknown"):
        knn(keys={"layer": "conv9"})
    with pytest.raises(ArtifactError, match="has no labels"):
        knn(images=relabelled(lambda table: [None] * 240))
    sick = restore_network(network, channels=1, seed=5, checkpoint=None)
    for parameter in sick.parameters():
        parameter.data.fill_(float("nan"))
    save_file({n: t.contiguous() for n, t in sick.state_dict().items()}, tmp_path / "nan")
    with pytest.raises(FeatureError, match="not finite"):
        knn(supervised=tmp_path / "nan")
    assert inspect(tmp_path / "knn")[0] is not Condition.WHOLE


def test_load_protocol__refuses_unfit_keys() -> None:
    for key, value in (("ks", []), ("ks", [0]), ("temperature", 0), ("validation_fraction", 1)):
        with pytest.raises(ConfigError, match=key):
            protocol(**{key: value})
