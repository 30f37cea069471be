"""The train stage with the keys of DeepCluster-v2. Suffixes: N images, V views, D dims."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import AVERAGE, FEATURES, MODEL, MOMENTUM
from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.artifacts.tables import centroids_of, read_clustering, read_labels
from deepcluster_core.clustering.second_clusters import find_second_clusters
from deepcluster_core.context import Context, SaveEvery
from deepcluster_core.data.augment_config import ViewsConfig
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.models.config import NetworkConfig, ProjectionConfig
from deepcluster_core.ranks import ALONE, Ranks
from deepcluster_core.training.config import LarsConfig, PrototypesConfig, ScheduleConfig
from deepcluster_core.training.heads import Prototypes
from stages.cluster import ClusterConfig, cluster
from stages.extract import ExtractConfig, extract
from stages.train import TrainConfig, train
from tests.margins import SEED
from tests.support.gloo import on_processes

N, D = 240, 12
CONTEXT = Context(seed=SEED, epoch=0)
NETWORK = NetworkConfig(
    name="smallnet", image_size=16, projection=ProjectionConfig(hidden=16, dim=D)
)
VIEWS = (
    ViewsConfig(count=2, size=16, area=(0.3, 1.0)),
    ViewsConfig(count=1, size=16, area=(0.1, 0.3)),
)
CLUSTERING = ClusterConfig(algorithm="spherical", k=(8, 6), pca_dim="none", whiten=False)
PLAIN = TrainConfig(
    batch_size=32,
    lr=0.005,
    balance="none",
    views=VIEWS,
    prototypes=PrototypesConfig(),
    precision="float32",
)
BANK = PLAIN.model_copy(update={"prototypes": PrototypesConfig(bank=True), "average": 0.9})
"""Two passes of seven or eight batches; the average follows quickly."""
SOFT = PLAIN.model_copy(update={"prototypes": PrototypesConfig(soft=True)})


class Cut(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


@dataclass(frozen=True)
class Inputs:
    """What the first epoch begins with; shared, so a test must not change it."""

    images: Path
    features: Path
    labels: Path

    def train(
        self,
        out: Path,
        config: TrainConfig,
        *,
        context: Context = CONTEXT,
        checkpoint: Path | None = None,
        **changed: Path | None,
    ) -> Manifest:
        inputs = {
            "labels": self.labels,
            "features": self.features if config.reads_features else None,
        }
        train.run(
            train=config,
            network=NETWORK,
            images=self.images,
            checkpoint=checkpoint,
            out=out,
            context=context,
            **(inputs | changed),
        )
        return read_manifest(out)


@pytest.fixture(scope="module")
def inputs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("prototypes")
    extract.run(
        extract=ExtractConfig(resize=20, layer="projection", precision="float32"),
        network=NETWORK,
        images=images,
        checkpoint=None,
        out=root / "features",
        context=CONTEXT,
    )
    clustered(images, root / "features", root / "labels", CONTEXT)
    return Inputs(images, root / "features", root / "labels")


def clustered(images: Path, features: Path, out: Path, context: Context) -> Path:
    cluster.run(cluster=CLUSTERING, images=images, features=features, out=out, context=context)
    return out


@pytest.fixture(scope="module")
def banked(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with an average and a bank, after two passes."""
    out = tmp_path_factory.mktemp("banked") / "checkpoint"
    inputs.train(out, BANK.model_copy(update={"reassign_every": 2.0}))
    return out


def rows_of(folder: Path) -> NDArray[np.floating]:
    return np.concatenate(list(Features(folder).blocks()))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# What is written


def test_run__whitened_prototypes_are_directions_of_the_embeddings(
    inputs: Inputs, tmp_path: Path
) -> None:
    zca = CLUSTERING.model_copy(update={"pca_dim": D - 2, "whiten": "zca"})
    labels = tmp_path / "labels"
    given = {"images": inputs.images, "features": inputs.features}
    cluster.run(cluster=zca, **given, out=labels, context=CONTEXT)

    # Whitened in the axes of the embeddings: there, each image is closest to its own prototype.
    stored = read_clustering(labels)
    components_QD = stored["pca_components"]
    rows_ND = np.concatenate(list(Features(inputs.features).blocks())).astype(np.float32)
    whitened_NQ = (rows_ND - stored["pca_mean"]) @ components_QD.T
    whitened_NQ /= np.sqrt(stored["pca_eigenvalues"])
    back_ND = torch.from_numpy(whitened_NQ @ components_QD)
    head = Prototypes.of_labels(labels, dim=D, temperature=1.0)
    for logits_NK, found in zip(head.classify(back_ND), read_labels(labels).heads, strict=True):
        np.testing.assert_array_equal(logits_NK.argmax(dim=1).numpy(), found.cluster_N)
        assert logits_NK.shape == (N, found.k)

    out = tmp_path / "checkpoint"
    loss = Inputs(inputs.images, inputs.features, labels).train(out, PLAIN).facts["loss"]
    assert 0 < loss < 2 * np.log(8)


@pytest.mark.parametrize("whiten", [False, "zca"])
def test_run__soft_targets_follow_from_what_was_clustered(
    inputs: Inputs, tmp_path: Path, whiten: bool | Literal["zca"]
) -> None:
    changes = {"pca_dim": D - 2 if whiten else "none", "whiten": whiten}
    labels = tmp_path / "labels"
    given = {"images": inputs.images, "features": inputs.features}
    cluster.run(cluster=CLUSTERING.model_copy(update=changes), **given, out=labels, context=CONTEXT)
    heads = read_labels(labels).heads
    cluster_HN = np.stack([head.cluster_N for head in heads])

    found = find_second_clusters(labels, inputs.features, cluster_HN, temperature=0.2, device="cpu")

    stored = read_clustering(labels)
    rows_NQ = rows_of(inputs.features).astype(float)
    if whiten:
        rows_NQ = (rows_NQ - stored["pca_mean"]) @ stored["pca_components"].T
        rows_NQ /= np.sqrt(stored["pca_eigenvalues"])
    rows_NQ /= np.linalg.norm(rows_NQ, axis=1, keepdims=True)
    for number, centroids_KQ in enumerate(centroids_of(labels)):
        cosine_NK = rows_NQ @ centroids_KQ.T
        order_NK = np.argsort(-cosine_NK, axis=1)
        np.testing.assert_array_equal(order_NK[:, 0], cluster_HN[number])
        np.testing.assert_array_equal(order_NK[:, 1], found.cluster_HN[number])
        both_N2 = np.exp(np.take_along_axis(cosine_NK, order_NK[:, :2], axis=1) / 0.2)
        share_N = both_N2[:, 1] / both_N2.sum(axis=1)
        np.testing.assert_allclose(found.share_HN[number], share_N, atol=1e-3)
    out = tmp_path / "checkpoint"
    hard, soft = (
        Inputs(inputs.images, inputs.features, labels).train(out / name, config).facts["loss"]
        for name, config in (("hard", PLAIN), ("soft", SOFT))
    )
    assert soft != pytest.approx(hard, rel=1e-3)


def test_run__whitened_prototypes_of_a_bank_are_those_of_its_first_view(
    inputs: Inputs, banked: Path, tmp_path: Path
) -> None:
    zca = CLUSTERING.model_copy(update={"pca_dim": "auto", "whiten": "zca"})
    given = {"images": inputs.images, "features": banked}
    cluster.run(cluster=zca, **given, out=tmp_path, context=CONTEXT)

    head = Prototypes.of_labels(tmp_path, dim=D, temperature=1.0)

    embeddings_ND = torch.from_numpy(rows_of(inputs.features)).float()
    assert [tuple(one.shape) for one in head.classify(embeddings_ND)] == [(N, 8), (N, 6)]


def test_run__several_views_and_clusterings_with_prototypes(inputs: Inputs, tmp_path: Path) -> None:
    manifest = inputs.train(tmp_path / "out", PLAIN)

    assert files(tmp_path / "out") == {MODEL, MOMENTUM, "_manifest.json"}
    # Eight prototypes, and a loss that begins near that of knowing nothing.
    assert 0 < manifest.facts["loss"] < 2 * np.log(8)
    assert 0 < manifest.facts["view_agreement"] <= 1
    assert manifest.rows == N
    assert "features" not in manifest.inputs


def test_run__average_is_what_everything_but_training_reads(inputs: Inputs, banked: Path) -> None:
    assert {MODEL, MOMENTUM, AVERAGE, FEATURES} < files(banked)
    read, trained = (
        restore_network(NETWORK, channels=1, seed=0, checkpoint=banked, averaged=averaged)
        for averaged in (True, False)
    )
    average, model = load_file(banked / AVERAGE), load_file(banked / MODEL)

    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor, average[name]), name
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, model[name]), name
    for name, _ in trained.named_parameters():
        assert not torch.equal(average[name], model[name]), name
    for name, buffer in trained.named_buffers():
        if name in model:
            assert torch.equal(average[name], buffer), f"{name}: the statistics of the network"


def test_run__bank_holds_all_images_and_is_clustered_view_by_view(
    inputs: Inputs, banked: Path, tmp_path: Path
) -> None:
    stored = Features(banked)
    assert (stored.num_images, stored.dim, stored.views) == (N, 2 * D, 2)
    rows_NVD = rows_of(banked).reshape(N, 2, D).astype(np.float64)
    # float16 has 11 bits.
    np.testing.assert_allclose(np.linalg.norm(rows_NVD, axis=2), 1, atol=2e-3)
    assert not np.array_equal(rows_NVD[:, 0], rows_NVD[:, 1])

    labels = clustered(inputs.images, banked, tmp_path / "labels", replace(CONTEXT, epoch=1))

    assert read_manifest(labels).rows == N


def test_run__image_that_is_not_drawn_keeps_its_row(inputs: Inputs, tmp_path: Path) -> None:
    half = BANK.model_copy(update={"reassign_every": 0.5})
    inputs.train(tmp_path / "out", half)

    before_NX = np.tile(rows_of(inputs.features), 2)
    after_NX = rows_of(tmp_path / "out")
    is_kept_N = (before_NX == after_NX).all(axis=1)
    assert is_kept_N.sum() == N // 2


def test_run__next_epoch_goes_on_with_average_and_bank(
    inputs: Inputs, banked: Path, tmp_path: Path
) -> None:
    context = replace(CONTEXT, epoch=1)
    labels = clustered(inputs.images, banked, tmp_path / "labels", context)
    one_step = BANK.model_copy(update={"reassign_every": 30 / N, "average": 0.999})

    manifest = inputs.train(
        tmp_path / "out",
        one_step,
        context=context,
        checkpoint=banked,
        labels=labels,
        features=banked,
    )

    assert manifest.inputs["features"] == manifest.inputs["checkpoint"]
    changed_N = (rows_of(tmp_path / "out") != rows_of(banked)).any(axis=1)
    assert changed_N.sum() == 30
    before, after = (load_file(folder / AVERAGE) for folder in (banked, tmp_path / "out"))
    weights, trained = load_file(banked / MODEL), load_file(tmp_path / "out" / MODEL)
    name = "projection.0.weight"
    torch.testing.assert_close(after[name], before[name].lerp(trained[name], 0.001))
    assert not torch.equal(weights[name], before[name])


# The same bytes


@pytest.mark.parametrize(
    "config", [PLAIN, BANK, SOFT], ids=["prototypes", "bank and average", "soft"]
)
def test_run__interrupted_ends_with_the_same_bytes(
    inputs: Inputs, tmp_path: Path, config: TrainConfig
) -> None:
    config = config.model_copy(
        update={
            "lars": LarsConfig(trust=0.01),
            "schedule": ScheduleConfig(warmup_epochs=0.5, epochs=2),
        }
    )
    seen: list[int] = []

    def progress(done: int, total: int | None) -> None:
        seen.append(done)
        if done == 150 and len(seen) == 5:
            raise Cut

    whole = inputs.train(tmp_path / "whole", config)
    context = replace(CONTEXT, progress=progress, save_every=SaveEvery(steps=3))
    with pytest.raises(Cut):
        inputs.train(tmp_path / "cut", config, context=context)
    cut = inputs.train(tmp_path / "cut", config, context=context)

    assert seen[5] == 120, "three steps of 30 images had been saved"
    assert (cut.digest, cut.facts, cut.key) == (whole.digest, whole.facts, whole.key)


def test_run__same_digest_with_any_number_of_workers(inputs: Inputs, tmp_path: Path) -> None:
    digests = {
        inputs.train(
            tmp_path / str(workers), BANK, context=replace(CONTEXT, workers=workers)
        ).digest
        for workers in (1, 5)
    }

    assert len(digests) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"prototypes": PrototypesConfig(temperature=0.2)},
        {"prototypes": PrototypesConfig(soft=True)},
        {"views": VIEWS[:1]},
        {"lars": LarsConfig()},
        {"schedule": ScheduleConfig(epochs=1)},
        {"average": 0.5},
    ],
    ids=str,
)
def test_run__every_setting_matters(
    inputs: Inputs, tmp_path: Path, changed: dict[str, object]
) -> None:
    short = PLAIN.model_copy(update={"reassign_every": 0.25})
    plain = inputs.train(tmp_path / "plain", short)

    other = inputs.train(tmp_path / "other", short.model_copy(update=changed))

    assert other.digest != plain.digest
    assert other.key != plain.key


def on_rank(inputs: Inputs, config: TrainConfig, ranks: Ranks, folder: Path) -> None:
    torch.set_num_threads(1)
    context = replace(CONTEXT, ranks=ranks, scratch=folder / "scratch")
    inputs.train(folder / "several", config, context=context)


@pytest.mark.slow
def test_run__two_ranks_have_the_soft_targets_of_one(inputs: Inputs, tmp_path: Path) -> None:
    one = inputs.train(tmp_path / "one", SOFT, context=replace(CONTEXT, ranks=ALONE))

    results = on_processes(2, partial(on_rank, inputs, SOFT), tmp_path)

    assert results == [None, None]
    several = read_manifest(tmp_path / "several")
    assert several.key == one.key
    assert several.facts["loss"] == pytest.approx(one.facts["loss"], abs=1e-3)


@pytest.mark.slow
def test_run__two_ranks_make_the_artifact_of_one(inputs: Inputs, tmp_path: Path) -> None:
    inputs.train(tmp_path / "one", BANK, context=replace(CONTEXT, ranks=ALONE))

    results = on_processes(2, partial(on_rank, inputs, BANK), tmp_path)

    assert results == [None, None]
    one, several = (read_manifest(tmp_path / name) for name in ("one", "several"))
    assert several.key == one.key
    assert several.files.keys() == one.files.keys()
    assert several.facts["loss"] == pytest.approx(one.facts["loss"], abs=1e-3)
    assert several.facts["view_agreement"] == pytest.approx(one.facts["view_agreement"], abs=0.05)
    bank, expected = rows_of(tmp_path / "several"), rows_of(tmp_path / "one")
    # Rounding moves few rows by much.
    assert np.quantile(np.abs(bank.astype(float) - expected.astype(float)), 0.9) < 0.01
    assert several.moved_bytes is not None
    assert several.moved_bytes["embeddings"] > 0


# Refused


@pytest.mark.parametrize(
    ("fails", "error", "message"),
    [
        (
            lambda inputs, out: inputs.train(out, BANK, features=None),
            ConfigError,
            "train.prototypes.bank: needs the features",
        ),
        (
            lambda inputs, out: inputs.train(out, SOFT, features=None),
            ConfigError,
            "train.prototypes.soft: needs the features",
        ),
        (
            lambda inputs, out: inputs.train(out, PLAIN.model_copy(update={"prototypes": None})),
            ConfigError,
            "the labels have 2 clusterings",
        ),
        (
            lambda inputs, out: inputs.train(
                out,
                PLAIN.model_copy(update={"schedule": ScheduleConfig(epochs=3)}),
                context=replace(CONTEXT, epoch=3),
            ),
            ConfigError,
            "no learning rate for epoch 3",
        ),
    ],
    ids=[
        "bank without features",
        "soft without features",
        "several clusterings",
        "schedule has ended",
    ],
)
def test_run__refuses(
    inputs: Inputs,
    tmp_path: Path,
    fails: Callable[[Inputs, Path], object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        fails(inputs, tmp_path / "out")


def test_run__refuses_clusters_of_other_features(
    inputs: Inputs, labels: Path, features: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"have 256 values, but the embeddings have 12\.\n.*\n.*Fix"
    ):
        inputs.train(tmp_path / "out", PLAIN, labels=labels)
    with pytest.raises(FeatureError, match="cannot be the beginning of the bank"):
        inputs.train(tmp_path / "out", BANK, features=features)
    with pytest.raises(FeatureError, match=r"soft needs the \d+ with 12 that were clustered"):
        inputs.train(tmp_path / "out", SOFT, features=features)
