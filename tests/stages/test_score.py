"""Labels in, metrics out. Suffixes: N images."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

from deepcluster_core.artifacts.commit import new_artifact, prune, write_manifest
from deepcluster_core.artifacts.file_names import INDEX, METRICS
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import Labels, read_labels, write_labels
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError
from stages.cluster import cluster
from stages.index import DatasetConfig, index
from stages.score import score as stage
from tests.margins import above
from tests.support.artifacts import reseal

CONTEXT = Context(seed=31, epoch=1)

Score = Callable[..., pd.Series]


@pytest.fixture
def score(images: Path, features: Path, labels: Path, checkpoint: Path, tmp_path: Path) -> Score:
    """Return a function that scores the shared artifacts, or others, and reads the row."""

    def of(*, previous: Path | None = None, **others: Path) -> pd.Series:
        inputs = {
            "images": images,
            "features": features,
            "labels": labels,
            "checkpoint": checkpoint,
        } | others
        out = tmp_path / "metrics"
        stage.run(**inputs, previous=previous, out=out, context=CONTEXT)
        return pd.read_parquet(out / METRICS).iloc[0]

    return of


def own_labels(out: Path, images: Path, cluster_N: NDArray[np.int32], *, k: int) -> Path:
    """Write labels as the cluster stage does."""
    with new_artifact(cluster.identity, out, config={}, inputs={}, context=CONTEXT) as draft:
        write_labels(
            out,
            images=images,
            cluster_N=cluster_N,
            distance_N=np.zeros(len(cluster_N), np.float32),
            clustering={"centroids": np.zeros((k, 2), np.float32)},
        )
        draft.facts = {"k": k, "effective_rank": 3.5}
    return out


def reference_nmi(one_N: NDArray[np.integer], other_N: NDArray[np.integer]) -> float:
    return normalized_mutual_info_score(one_N, other_N, average_method="geometric")


@pytest.mark.learns
def test_run__nmi_equals_scikit_learns_geometric(
    score: Score, images: Path, labels: Path, tmp_path: Path
) -> None:
    before_N = np.random.default_rng(0).integers(8, size=240).astype(np.int32)
    previous = own_labels(tmp_path / "previous", images, before_N, k=8)
    now_N, truth_N = read_labels(labels).cluster_N, Images(images).true_labels()
    assert truth_N is not None

    row = score(previous=previous)

    # Sums of a few logarithms in float64, in another order.
    assert row.nmi_previous == pytest.approx(reference_nmi(before_N, now_N), rel=1e-9)
    assert row.nmi_labels == pytest.approx(reference_nmi(truth_N, now_N), rel=1e-9)
    assert 0 < row.nmi_previous < 1
    assert 0 < row.nmi_labels < 1
    assert above("NMI with shapes over chance", row.nmi_labels - row.nmi_previous, 0)


def test_run__clusters_equal_to_the_classes_score_1(
    score: Score, images: Path, tmp_path: Path
) -> None:
    truth_N = Images(images).true_labels()
    assert truth_N is not None
    perfect = own_labels(tmp_path / "perfect", images, (3 - truth_N).astype(np.int32), k=4)

    row = score(labels=perfect, previous=perfect)

    # 1e-12: logarithms in float64.
    assert row.nmi_labels == pytest.approx(1, abs=1e-12)
    assert row.ami == pytest.approx(1, abs=1e-12)
    assert (row.ari, row.accuracy) == (1, 1)
    assert row.nmi_previous == pytest.approx(1, abs=1e-12)
    assert row.moved_fraction == 0


def test_run__by_hand(score: Score, images: Path, tmp_path: Path) -> None:
    # Previous: halves. Now: the first half whole, the second in quarters, cluster 1 and 4 empty.
    halves_N = np.repeat([0, 1], [120, 120]).astype(np.int32)
    parts_N = np.repeat([0, 3, 2], [120, 60, 60]).astype(np.int32)
    previous = own_labels(tmp_path / "previous", images, halves_N, k=5)
    now = own_labels(tmp_path / "now", images, parts_N, k=5)

    row = score(labels=now, previous=previous)

    # I = H(halves) = ln 2 and H(parts) = 1.5 ln 2, so NMI = 1 / sqrt(1.5). Float64 logarithms.
    assert row.nmi_previous == pytest.approx(1 / math.sqrt(1.5), rel=1e-12)
    assert row.moved_fraction == 0, "a split moves nobody"
    assert (row.images, row.k, row.empty_clusters) == (240, 5, 2)
    assert (row.smallest_cluster, row.median_cluster, row.largest_cluster) == (60, 60, 120)
    assert row.largest_fraction == 0.5
    assert row.entropy_nats == pytest.approx(1.5 * math.log(2))
    assert row.effective_clusters == pytest.approx(2**1.5)
    assert row.ln_k == pytest.approx(math.log(5))
    assert row.effective_rank == 3.5
    assert "empty_clusters" in row.warnings.split(", ")
    merged = score(labels=previous, previous=now)
    assert merged.moved_fraction == 0.25, "a merger moves the smaller part"


def test_run__nulls_where_nothing_is_known(
    score: Score, dataset: DatasetConfig, tmp_path: Path
) -> None:
    unlabelled = dataset.model_copy(update={"labels": "none"})
    images = tmp_path / "images"
    index.run(dataset=unlabelled, source="any", out=images, context=CONTEXT)

    row = score(images=images, previous=None)

    unknown = {name for name, value in row.items() if pd.isna(value)}
    on_a_gpu = {f"{stage}_peak_device_bytes" for stage in ("extract", "cluster", "train")}
    of_labels = {"nmi_labels", "ami", "ari", "accuracy"}
    of_several = {"head_agreement", "view_agreement"}  # of clusterings, of views of an image
    assert unknown == {"nmi_previous", "moved_fraction"} | of_labels | of_several | on_a_gpu
    schema = pq.read_schema(tmp_path / "metrics" / METRICS)
    assert str(schema.field("nmi_labels").type) == "double", "so that epochs join to one table"


def test_run__unlabelled_images_do_not_count_for_nmi_labels(
    score: Score, images: Path, labels: Path, tmp_path: Path
) -> None:
    partly = shutil.copytree(images, tmp_path / "images")
    table = pd.read_parquet(partly / INDEX)
    table.loc[table.image_id % 3 == 0, "label"] = None
    table.to_parquet(partly / INDEX)
    reseal(partly)
    truth_N = pd.factorize(table.label)[0]
    known_N = truth_N >= 0
    assert known_N.sum() == 160

    row = score(images=partly)

    expected = reference_nmi(truth_N[known_N], read_labels(labels).cluster_N[known_N])
    assert row.nmi_labels == pytest.approx(expected, rel=1e-9)
    known = (truth_N[known_N], read_labels(labels).cluster_N[known_N])
    assert row.ari == pytest.approx(adjusted_rand_score(*known), rel=1e-9)
    assert row.ami == pytest.approx(adjusted_mutual_info_score(*known), rel=1e-9)


def test_run__of_several_clusterings_the_agreement_is_that_of_two_with_one_k(
    score: Score, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_labels(labels)
    thirds_N = (np.arange(240) % 3).astype(np.int32)
    third = Labels(thirds_N, first.distance_N, k=3)
    other = Labels(np.sort(thirds_N), first.distance_N, k=3)

    with monkeypatch.context() as patch:
        patch.setattr("stages.score.read_labels", lambda _: replace(first, others=(third, other)))
        row = score()
    with monkeypatch.context() as patch:
        patch.setattr("stages.score.read_labels", lambda _: replace(first, others=(third,)))
        without = score()

    assert row.head_agreement == pytest.approx(reference_nmi(thirds_N, np.sort(thirds_N)), abs=1e-9)
    assert pd.isna(without.head_agreement), "clusters of different sizes never agree fully"


def test_run__of_several_clusterings_ln_k_is_the_mean_as_the_loss_is(
    score: Score, labels: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(labels)
    k = manifest.facts["k"]
    several = shutil.copytree(labels, tmp_path / "labels")
    facts = manifest.facts | {"k_1": 5 * k, "k_2": 5 * k}
    write_manifest(several, manifest.model_copy(update={"facts": facts}))

    row = score(labels=several)

    assert row.ln_k == pytest.approx(math.log(k) + 2 / 3 * math.log(5), rel=1e-12)


def test_run__heads_agree_by_the_nmi_of_the_first_and_the_last(
    score: Score, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_labels(labels)
    halves_N = (np.arange(240) % 2).astype(np.int32)
    half = Labels(halves_N, first.distance_N, first.k)
    # The middle one equals the first, so that an agreement of 1 would be the wrong pair.
    monkeypatch.setattr("stages.score.read_labels", lambda _: replace(first, others=(first, half)))

    row = score()

    assert row.head_agreement == pytest.approx(reference_nmi(first.cluster_N, halves_N), rel=1e-9)
    assert row.head_agreement < 0.5


def test_run__takes_over_measures_without_labels(
    score: Score, labels: Path, checkpoint: Path, tmp_path: Path
) -> None:
    trained = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    manifest = read_manifest(trained)
    facts = manifest.facts | {"view_agreement": 0.75}
    write_manifest(trained, manifest.model_copy(update={"facts": facts}))
    clustered = read_manifest(labels)

    row = score(checkpoint=trained)

    assert row.view_agreement == 0.75
    assert row.rankme == clustered.facts["rankme"] > row.effective_rank > 1
    assert row.alpha == clustered.facts["alpha"] > 0


def test_run__cost_and_loss_are_those_of_the_manifests(
    score: Score, features: Path, labels: Path, checkpoint: Path
) -> None:
    extracted, clustered, trained = map(read_manifest, (features, labels, checkpoint))

    row = score()

    assert row.loss == trained.facts["loss"]
    assert row.effective_rank == clustered.facts["effective_rank"]
    assert row.dead_features == clustered.facts["dead_features"] == 0
    assert row.ln_k == pytest.approx(math.log(8))
    made = {"extract": extracted, "cluster": clustered, "train": trained}
    found = row.to_dict()
    for name, manifest in made.items():
        assert found[f"{name}_s"] == manifest.seconds
        assert found[f"{name}_images_per_s"] == pytest.approx(240 / manifest.seconds)
        assert found[f"{name}_peak_bytes"] == manifest.peak_memory_bytes


def test_run__reads_only_the_manifests_of_features_and_checkpoint(
    score: Score, features: Path, checkpoint: Path, tmp_path: Path
) -> None:
    whole = score()
    pruned = {
        "features": shutil.copytree(features, tmp_path / "features"),
        "checkpoint": shutil.copytree(checkpoint, tmp_path / "checkpoint"),
    }
    for folder in pruned.values():
        prune(folder)

    pd.testing.assert_series_equal(score(**pruned), whole)


def test_run__labels_of_before_dead_features_were_counted(
    score: Score, images: Path, tmp_path: Path
) -> None:
    one_N = np.r_[np.zeros(230), np.arange(1, 11)].astype(np.int32)
    labels = own_labels(tmp_path / "labels", images, one_N, k=11)

    row = score(labels=labels)

    assert math.isnan(row.dead_features)
    assert math.isnan(row.rankme)
    assert math.isnan(row.alpha)
    assert row.warnings == "few_clusters, one_cluster"


def test_run__same_inputs_same_digest(score: Score, labels: Path, tmp_path: Path) -> None:
    def once() -> tuple[str, str]:
        score(previous=labels)
        manifest = read_manifest(tmp_path / "metrics")
        return manifest.key, manifest.digest

    assert once() == once()
    assert inspect(tmp_path / "metrics")[0] is Condition.WHOLE
    assert read_manifest(tmp_path / "metrics").facts["k"] == 8


def test_run__refuses_labels_of_other_images(score: Score, images: Path, tmp_path: Path) -> None:
    labels = own_labels(tmp_path / "labels", images, np.zeros(240, np.int32), k=2)
    (labels / "_manifest.json").unlink()

    with pytest.raises(ArtifactError, match="not hold a finished artifact"):
        score(labels=labels)
