import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import deepcluster
from deepcluster_core import seeding
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_labels
from deepcluster_core.errors import ArtifactError, ConfigError, FeatureError, SourceError

K, DIM = 8, 6
RECIPE = f"""
epochs: 2
dataset: {{source: SOURCE, shorter_side: 16, channels: 1, encoding: raw}}
network: {{name: smallnet, image_size: 16}}
extract: {{resize: 16}}
cluster: {{k: {K}, pca_dim: {DIM}}}
train: {{batch_size: 32}}
compute: {{device: cpu, workers: 1}}
"""
HEAVY = ("numpy", "pandas", "torch", "pyarrow", "stages")


@pytest.fixture(scope="module")
def recipe(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(RECIPE.replace("SOURCE", str(tiny_images)))
    return path


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> deepcluster.Run:
    """Return a run of two epochs. Shared: a test must not change it."""
    return deepcluster.run_epochs(recipe, tmp_path_factory.mktemp("runs") / "tiny", echo=False)


def in_new_process(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return json.loads(done.stdout)


def test_import__is_cheap() -> None:
    loaded = in_new_process(
        "import sys, os, json; before = dict(os.environ); import deepcluster; "
        "assert os.environ == before; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )

    assert "deepcluster" in loaded
    assert not {*HEAVY, "prefect"} & set(loaded)


@pytest.mark.slow
def test_import__of_every_name_needs_no_prefect() -> None:
    loaded = in_new_process(
        "import sys, json, deepcluster; "
        "[getattr(deepcluster, name) for name in deepcluster.__all__]; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )

    assert set(HEAVY) <= set(loaded)
    assert not {"prefect", "flows"} & set(loaded)


def test_names__are_documented() -> None:
    assert sorted(deepcluster.__all__) == sorted(dir(deepcluster))
    for name in deepcluster.__all__:
        assert inspect.getdoc(getattr(deepcluster, name)), name
    with pytest.raises(AttributeError, match="no attribute 'kmean'"):
        _ = deepcluster.kmean  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


def test_run_epochs__again_makes_nothing(
    run: deepcluster.Run, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_manifest(run.folder / "metrics" / "epoch=0001")

    again = deepcluster.run_epochs(recipe, run.folder)

    assert again.epochs == [0, 1]
    assert read_manifest(run.folder / "metrics" / "epoch=0001") == before
    printed = capsys.readouterr().out
    assert "every stage Cached (9 of 9)" in printed
    assert printed.count("Cached") == 1 + 2 * 4 + 1


def test_run_epochs__goes_on_and_is_quiet_if_asked(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = deepcluster.load_recipe(recipe, {"cluster": {"k": 5}})
    first = deepcluster.run_epochs(loaded, tmp_path / "run", epochs=1, echo=False)
    second = deepcluster.run_epochs(loaded, tmp_path / "run", overrides={"epochs": 2}, echo=False)

    assert (first.epochs, second.epochs) == ([0], [0, 1])
    assert second.recipe.cluster.k == 5
    assert capsys.readouterr().out == ""


def test_run_epochs__refuses_other_settings_until_asked(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fewer: dict[str, Any] = {"cluster": {"k": 5}}
    assert deepcluster.run_epochs(recipe, epochs=1, echo=False).folder == tmp_path / "runs/tiny"

    with pytest.raises(ConfigError, match=r"cluster\.k 8 -> 5"):
        deepcluster.run_epochs(recipe, epochs=1, overrides=fewer, echo=False)

    run = deepcluster.run_epochs(recipe, epochs=1, overrides=fewer, update=True, echo=False)
    assert set(run.labels()["cluster"].tolist()) <= set(range(5))


def test_run_epochs__names_all_problems(recipe: Path) -> None:
    loaded = deepcluster.load_recipe(recipe)
    with pytest.raises(ConfigError, match=r"(?s)cluster\.k.*train\.lrr"):
        deepcluster.run_epochs(loaded, "x", overrides={"cluster": {"k": -1}, "train": {"lrr": 1}})
    with pytest.raises(ConfigError, match="needs a name for its run"):
        deepcluster.run_epochs(loaded)


def test_open_run__what_is_not_there(
    run: deepcluster.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"is not a run"):
        deepcluster.open_run("missing")
    with pytest.raises(ConfigError, match="epochs 0 to 1"):
        run.labels(7)
    assert "2 epochs" in repr(run)


def test_labels__are_those_of_the_run(run: deepcluster.Run) -> None:
    frame = run.labels(0)

    stored = read_labels(run.folder / "labels" / "epoch=0000")
    assert list(frame) == ["image_id", "path", "cluster", "distance", "true_label"]
    assert frame["image_id"].tolist() == list(range(240))
    np.testing.assert_array_equal(frame["cluster"], stored.cluster_N)
    assert frame["true_label"].tolist() == [path.split("/")[0] for path in frame["path"]]
    assert not frame["cluster"].equals(run.labels()["cluster"])


def test_metrics__a_row_for_each_epoch(run: deepcluster.Run) -> None:
    frame = run.metrics()

    assert frame["epoch"].tolist() == [0, 1]
    assert min(frame["loss"].tolist()) > 0
    assert frame["nmi_previous"].isna().tolist() == [True, False]


def test_features__are_what_the_epoch_clustered(run: deepcluster.Run) -> None:
    features_ND = run.features(1)

    assert (features_ND.shape, features_ND.dtype) == ((240, 256), np.float16)
    pca = deepcluster.fit_pca(features_ND, dim=DIM)
    seed = seeding.derive(run.recipe.seed, 1, "cluster", "kmeans")
    found = deepcluster.kmeans(pca.transform(features_ND), K, seed)
    agree_N = found.cluster_N == run.labels(1)["cluster"].to_numpy()
    assert agree_N.mean() > 0.98, "only rounding in the PCA may differ"


def test_features__pruned(recipe: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"keep": {"features": 1}, "cluster": {"k": 4}}
    run = deepcluster.run_epochs(recipe, tmp_path / "run", overrides=changes, echo=False)

    assert len(run.features()) == 240
    with pytest.raises(ArtifactError, match=r"pruned[\s\S]*Fix: deepcluster stage extract"):
        run.features(0)


def test_network__has_the_weights_of_the_checkpoint(run: deepcluster.Run) -> None:
    network = run.network(0)

    stored = load_file(run.folder / "checkpoints" / "epoch=0000" / "model.safetensors")
    for name, weights in network.state_dict().items():
        assert torch.equal(weights, stored[name])


def test_image__as_it_was_packed(run: deepcluster.Run) -> None:
    pixels_HWC = run.image(3)
    assert (pixels_HWC.dtype, min(pixels_HWC.shape[:2]), pixels_HWC.shape[2]) == (np.uint8, 16, 1)
    with pytest.raises(IndexError, match="images 0 to 239"):
        run.image(240)


def test_assign__own_images_get_their_clusters(run: deepcluster.Run, tiny_images: Path) -> None:
    expected = run.labels(1)

    from_files = run.assign(tiny_images, epoch=1)
    from_arrays = run.assign([run.image(number) for number in range(240)])

    assert from_files["path"].tolist() == expected["path"].tolist()
    assert from_arrays["path"].tolist() == list(map(str, range(240)))
    for found in (from_files, from_arrays):
        assert found["cluster"].tolist() == expected["cluster"].tolist()
        np.testing.assert_allclose(found["distance"], expected["distance"], atol=1e-5)
        assert found.attrs["skipped"] == {}


def test_embed__own_images_have_their_features(run: deepcluster.Run, tiny_images: Path) -> None:
    paths, features_ND, skipped = run.embed(str(tiny_images), epoch=0)

    np.testing.assert_array_equal(features_ND, run.features(1))
    assert (len(paths), skipped) == (240, {})


def test_embed__a_batch_of_arrays_and_a_layer(run: deepcluster.Run) -> None:
    batch_NHWC = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 1), dtype=np.uint8)

    found = run.embed(batch_NHWC, layer="conv2")

    assert found.features.shape[0] == 5
    assert found.features.shape[1] < 256
    one_by_one = run.embed(list(batch_NHWC), layer="conv2").features
    np.testing.assert_array_equal(found.features, one_by_one)


def test_embed__leaves_out_what_cannot_be_read(run: deepcluster.Run, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"none of 1 images.*bad\.png"):
        run.embed(tmp_path)
    Image.new("L", (20, 20), 7).save(tmp_path / "good.png")

    assert run.embed(tmp_path).paths == ["good.png"]
    assert list(run.assign(tmp_path).attrs["skipped"]) == ["bad.png"]


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        (np.zeros((20, 20, 1), np.uint8), r"shape \(20, 20, 1\)"),
        (np.zeros((2, 20, 20, 1), np.float32), "float32"),
        ([np.zeros((20, 20, 1), np.uint8), np.zeros(3, np.uint8)], "number 1"),
        (np.zeros((2, 20, 20, 5), np.uint8), "number 0 cannot be used"),
        ([], "no images"),
    ],
)
def test_embed__refuses_other_arrays(run: deepcluster.Run, images: Any, problem: str) -> None:  # noqa: ANN401
    with pytest.raises(SourceError, match=problem):
        run.embed(images)


def test_kmeans__finds_separate_groups() -> None:
    generator = np.random.default_rng(0)
    group_N = generator.integers(3, size=300)
    rows_ND = np.eye(3)[group_N] * 10 + generator.normal(size=(300, 3))
    rows_ND.flags.writeable = False

    found = deepcluster.kmeans(rows_ND, 3, seed=2)

    assert found.centroids_KQ.shape == (3, 3)
    assert len(set(zip(found.cluster_N.tolist(), group_N.tolist(), strict=True))) == 3
    again = deepcluster.kmeans(rows_ND, 3, seed=2)
    np.testing.assert_array_equal(found.cluster_N, again.cluster_N)


def test_fit_pca__whitens() -> None:
    rows_ND = np.random.default_rng(0).normal(size=(500, 4)) * (8, 4, 2, 1)

    pca = deepcluster.fit_pca(rows_ND, dim=2)

    np.testing.assert_allclose(pca.eigenvalues_Q, (64, 16), rtol=0.15)
    np.testing.assert_allclose(pca.mean_D, rows_ND.mean(axis=0), atol=1e-5)
    assert pca.components_QD.shape == (2, 4)
    lengths_N = np.linalg.norm(pca.transform(rows_ND), axis=1)
    np.testing.assert_allclose(lengths_N, 1, rtol=1e-5)
    with pytest.raises(FeatureError, match="5 values"):
        pca.transform(np.zeros((1, 5)))


def test_arrays__refuses_what_cannot_be_grouped() -> None:
    with pytest.raises(FeatureError, match=r"shape \(5,\)"):
        deepcluster.kmeans(np.zeros(5), 2)
    with pytest.raises(FeatureError, match="numbers"):
        deepcluster.fit_pca([["a", "b"]], dim=1)
    with pytest.raises(FeatureError, match="finite"):
        deepcluster.kmeans(np.full((5, 2), np.nan), 2)
    with pytest.raises(ConfigError, match="seed"):
        deepcluster.kmeans(np.zeros((5, 2)), 2, seed=-1)
    with pytest.raises(ConfigError, match="iterations"):
        deepcluster.kmeans(np.zeros((5, 2)), 2, iterations=0)


def test_build_network__by_name() -> None:
    network = deepcluster.build_network("smallnet", image_size=32, channels=1, seed=3)

    images_BCSS = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    assert network.feature(images_BCSS).shape == (2, network.feature_dim)
    with pytest.raises(ConfigError, match=r"(?s)unknown network 'smalnet'"):
        deepcluster.build_network("smalnet")
