"""Suffixes: N images, D values of a feature."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
import zarr
from rich.console import Console

from benchmarks.pictures import write_pictures
from deepcluster_core.artifacts.commit import prune
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.errors import ArtifactError, ConfigError, DeepClusterError, SourceError
from stages.runs import new_images
from stages.runs.new_images import assign, embed
from stages.runs.outputs.origin import belonging
from tests.support.plain_runs import make_run

OUT = Path("labels.parquet")


def labels_of(run: Path, epoch: int) -> pd.DataFrame:
    return pd.read_parquet(run / "labels" / f"epoch={epoch:04d}" / "labels.parquet")


def here() -> set[str]:
    return {path.name for path in Path().iterdir()}


@pytest.fixture
def some_images(tiny_images: Path, tmp_path: Path) -> Path:
    """Return a folder of twelve pictures."""
    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted((tiny_images / "disc").iterdir())[:12]:
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("epoch", [0, 2, None])
def test_assign__images_of_the_run_get_its_own_labels(
    epoch: int | None, finished_run: Path, tiny_images: Path
) -> None:
    assign(str(finished_run), tiny_images, out=OUT, epoch=epoch)

    wanted = labels_of(finished_run, 2 if epoch is None else epoch)
    pd.testing.assert_frame_equal(pd.read_parquet(OUT), wanted, check_exact=True)
    assert here() == {"labels.parquet"}, "nothing was skipped, so no table says so"


@pytest.mark.parametrize("feed", ["host", "device"])
def test_assign__images_packed_as_jpeg_and_cropped_get_their_labels_too(
    feed: str, recipe: Path, tiny_images: Path, tmp_path: Path, prefect_server: str
) -> None:
    run = tmp_path / "jpeg"
    dataset = {"encoding": "jpeg", "jpeg_quality": 60, "channels": 3, "shorter_side": 22}
    # In float32, so that storing as float16 rounds: bfloat16 has no digits to lose.
    extract = {"resize": 18, "layer": "conv3", "precision": "float32"}
    overrides = {"dataset": dataset, "extract": extract, "compute": {"feed": feed}}
    make_run(recipe, run, epochs=1, overrides=overrides)

    assign(str(run), tiny_images, out=OUT)

    pd.testing.assert_frame_equal(pd.read_parquet(OUT), labels_of(run, 0), check_exact=True)


@pytest.mark.parametrize("feed", ["host", "device"])
def test_assign__colour_images_of_a_grey_run_get_its_labels(
    feed: str, recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    source, run = tmp_path / "photographs", tmp_path / "grey"
    write_pictures(source, count=40)
    dataset = {"source": str(source), "encoding": "grey", "channels": 3, "shorter_side": 22}
    extract = {"resize": 18, "precision": "float32"}
    overrides = {"dataset": dataset, "extract": extract, "compute": {"feed": feed}}
    make_run(recipe, run, epochs=1, overrides=overrides)

    assign(str(run), source, out=OUT)

    pd.testing.assert_frame_equal(pd.read_parquet(OUT), labels_of(run, 0), check_exact=True)


def test_assign__finds_the_clusters_of_every_clustering(
    recipe: Path, tiny_images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "heads"
    cluster = {"algorithm": "spherical", "k": [8, 5], "pca_dim": "none", "whiten": False}
    extract = {"precision": "float32"}
    make_run(recipe, run, epochs=0, overrides={"cluster": cluster, "extract": extract})

    assign(str(run), tiny_images, out=OUT)

    found, expected = pd.read_parquet(OUT), labels_of(run, 0)
    assert list(found.columns[-2:]) == ["cluster_1", "distance_1"]
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_assign__turns_back_to_the_whitened_space_that_was_clustered(
    recipe: Path, tiny_images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "zca"
    cluster = {"algorithm": "spherical", "k": [8, 5], "pca_dim": 8, "whiten": "zca"}
    overrides = {
        "network": {"projection": {"hidden": 32, "dim": 16}},
        "extract": {"precision": "float32", "layer": "projection"},
        "cluster": cluster,
    }
    make_run(recipe, run, epochs=0, overrides=overrides)

    assign(str(run), tiny_images, out=OUT)

    pd.testing.assert_frame_equal(pd.read_parquet(OUT), labels_of(run, 0), check_exact=True)


def test_assign__clusters_of_trained_views_are_told(
    recipe: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "bank"
    overrides = {
        "network": {"projection": {"hidden": 32, "dim": 16}},
        "extract": {"layer": "projection"},
        "cluster": {"algorithm": "spherical", "pca_dim": "none", "whiten": False},
        "train": {"prototypes": {"bank": True}},
    }
    make_run(recipe, run, epochs=2, overrides=overrides)

    assign(str(run), some_images, out=OUT, epoch=1)
    printed = capsys.readouterr().out
    assign(str(run), some_images, out=Path("first.parquet"), epoch=0)

    remark = "clusters of views that were trained on"
    assert remark in printed
    assert remark not in capsys.readouterr().out, "epoch 0 clusters what extract has written"


def test_assign__clusters_that_are_no_cells_are_told(
    recipe: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "pic"
    make_run(recipe, run, epochs=1, overrides={"cluster": {"algorithm": "pic", "k": "auto"}})

    assign(str(run), some_images, out=OUT)

    assert "clusters of pic: each image goes to that of the nearest mean" in capsys.readouterr().out
    k = read_manifest(run / "labels" / "epoch=0000").facts["k"]
    assert pd.read_parquet(OUT)["cluster"].between(0, k - 1).all()


@pytest.mark.parametrize("kind", ["list", "parquet", "tar"])
def test_assign__takes_every_kind_of_source(
    kind: str, finished_run: Path, some_images: Path, tmp_path: Path
) -> None:
    assign(str(finished_run), some_images, out=OUT)
    files = sorted(some_images.iterdir())
    source = tmp_path / f"source.{'txt' if kind == 'list' else kind}"
    if kind == "list":
        source.write_text("".join(f"{path}\n" for path in files))
    elif kind == "parquet":
        rows = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
        pd.DataFrame({"image": rows}).to_parquet(source)
    else:
        with tarfile.open(source, "w") as archive:
            for path in files:
                archive.add(path, path.name)

    assign(str(finished_run), source, out=Path("again.parquet"))

    wanted, again = pd.read_parquet(OUT), pd.read_parquet("again.parquet")
    pd.testing.assert_frame_equal(again.drop(columns="path"), wanted.drop(columns="path"))
    assert [Path(path).name for path in again["path"]] == [path.name for path in files]


@pytest.mark.parametrize("command", [assign, embed])
def test_assign_and_embed__unreadable_images_are_listed_and_counted(
    command: Callable[..., None],
    finished_run: Path,
    some_images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, *_, last = sorted(some_images.iterdir())
    first.write_bytes(first.read_bytes()[:100])
    last.write_text("no picture")

    command(str(finished_run), some_images, out=OUT)

    skipped = pd.read_parquet("labels.skipped.parquet")
    assert list(skipped["path"]) == [first.name, last.name]
    assert skipped["reason"].str.contains("truncated|not an image").all()
    table = pd.read_parquet(OUT)
    assert list(table["image_id"]) == list(range(10)), "numbered without gaps, as in a run"
    assert first.name not in set(table["path"])
    told = capsys.readouterr().out
    assert "labels.parquet: 10 images, 2 skipped (why: labels.skipped.parquet)" in told
    assert "images/s" not in told, "so few images have no pace"


def test_assign__none_readable_is_an_error_that_leaves_nothing(
    finished_run: Path, tmp_path: Path
) -> None:
    source = tmp_path / "broken"
    source.mkdir()
    for number in range(7):
        (source / f"{number}.png").write_bytes(b"")

    with pytest.raises(SourceError, match=r"none of 7 images can be read\.\n +0\.png: empty file"):
        assign(str(finished_run), source, out=OUT)

    assert here() == set()


@pytest.mark.parametrize("out", ["features.zarr", "features.parquet"])
def test_embed__source_that_breaks_off_leaves_nothing(
    out: str, finished_run: Path, some_images: Path, tmp_path: Path
) -> None:
    source = tmp_path / "broken.tar"
    with tarfile.open(source, "w") as archive:
        archive.add(some_images, "all")
    source.write_bytes(source.read_bytes()[:9_000])

    with pytest.raises(SourceError, match="cannot be read as a tar file"):
        embed(str(finished_run), source, out=Path(out))

    assert here() == set()


def test_embed__zarr_is_as_the_features_that_the_run_extracted(
    finished_run: Path, tiny_images: Path
) -> None:
    embed(str(finished_run), tiny_images, out=Path("features.zarr"), epoch=1)

    made, wanted = (
        zarr.open_array(folder / "features.zarr", mode="r")
        for folder in (Path(), finished_run / "features" / "epoch=0002")
    )
    assert made.dtype == np.float16
    np.testing.assert_array_equal(made[:], wanted[:])
    index = pd.read_parquet("features.index.parquet")
    wanted_index = pd.read_parquet(finished_run / "images" / "index.parquet")
    pd.testing.assert_frame_equal(index, wanted_index.filter(["image_id", "path"]))
    about = cast("dict[str, Any]", made.attrs["deepcluster"])
    checkpoint = read_manifest(finished_run / "checkpoints" / "epoch=0001")
    assert about["checkpoint"]["digest"] == checkpoint.digest
    assert here() == {"features.zarr", "features.index.parquet"}


def test_embed__table_holds_the_same_with_its_paths(finished_run: Path, some_images: Path) -> None:
    embed(str(finished_run), some_images, out=Path("features.zarr"))
    embed(str(finished_run), some_images, out=Path("table.parquet"))

    array_ND = np.asarray(zarr.open_array("features.zarr", mode="r")[:], np.float32)
    table = pd.read_parquet("table.parquet")
    table_ND = np.stack(list(table["feature"]))
    assert table_ND.dtype == np.float32
    np.testing.assert_array_equal(table_ND.astype(np.float16), array_ND)
    assert list(table["path"]) == sorted(path.name for path in some_images.iterdir())
    metadata = pq.read_schema("table.parquet").metadata
    assert json.loads(metadata[b"deepcluster"])["checkpoint"]["epoch"] == 2


def test_embed__layer_gives_its_own_width(finished_run: Path, some_images: Path) -> None:
    embed(str(finished_run), some_images, out=Path("conv2.zarr"), layer="conv2")

    assert zarr.open_array("conv2.zarr", mode="r").shape == (12, 64)


def test_embed__source_of_the_run_is_read_as_the_run_reads_it(
    own_run: Path, some_images: Path
) -> None:
    pd.DataFrame({"image": [b""]}).to_parquet(some_images / "beside.parquet")
    with pytest.raises(SourceError, match="could be of kind parquet or folder"):
        embed(str(own_run), some_images, out=Path("features.zarr"))

    config = yaml.safe_load((own_run / "config.yaml").read_text())
    config["dataset"] |= {"source": str(some_images), "kind": "folder"}
    (own_run / "config.yaml").write_text(yaml.safe_dump(config))
    embed(str(own_run), some_images, out=Path("features.zarr"))

    assert zarr.open_array("features.zarr", mode="r").shape == (12, 256)


@pytest.mark.parametrize("there", ["labels.parquet", "labels.skipped.parquet"])
def test_assign__what_is_there_is_not_written_over(
    there: str, finished_run: Path, some_images: Path
) -> None:
    Path(there).write_text("mine")

    with pytest.raises(
        ArtifactError, match=rf"{there}: exists already(.|\n)*Fix: choose a different"
    ):
        assign(str(finished_run), some_images, out=OUT)

    assert here() == {there}
    assert Path(there).read_text() == "mine"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"run": "runs/none"}, "runs/none: is not a run"),
        ({"epoch": 3}, r"--epoch 3: the run has epochs 0 to 2\."),
        (
            {"out": Path("labels.txt")},
            r"labels\.txt: must end in \.parquet or \.csv or \.npy",
        ),
        ({"source": Path("nowhere")}, "nowhere: does not exist"),
    ],
)
def test_assign__what_cannot_be_meant_is_refused(
    asked: dict[str, Any], said: str, finished_run: Path, some_images: Path
) -> None:
    given: dict[str, Any] = {"run": str(finished_run), "source": some_images, "out": OUT} | asked

    with pytest.raises(DeepClusterError, match=said):
        assign(**given)

    assert here() == set()


def test_assign__other_formats_say_the_same(finished_run: Path, some_images: Path) -> None:
    for suffix in (".parquet", ".csv", ".npy"):
        assign(str(finished_run), some_images, out=OUT.with_suffix(suffix))

    wanted = pd.read_parquet(OUT)
    assert here() == {
        *("labels.parquet", "labels.csv", "labels.about.json", "labels.npy"),
        "labels.index.parquet",
    }
    pd.testing.assert_frame_equal(pd.read_csv("labels.csv"), wanted, check_dtype=False, rtol=1e-6)
    np.testing.assert_array_equal(np.load("labels.npy"), wanted["cluster"])
    pd.testing.assert_frame_equal(pd.read_parquet("labels.index.parquet"), wanted)
    for name in ("labels.parquet", "labels.csv", "labels.npy"):
        assert belonging(Path(name)).artifacts == ["labels of epoch 2", "checkpoints of epoch 1"]


def test_embed__other_formats_say_the_same(finished_run: Path, some_images: Path) -> None:
    for name in ("f.zarr", "g.npy", "h.csv"):
        embed(str(finished_run), some_images, out=Path(name))

    wanted = np.asarray(zarr.open_array("f.zarr", mode="r")[:])
    found = np.load("g.npy")
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    index = pd.read_parquet("g.index.parquet")
    table = pd.read_csv("h.csv")
    assert list(table["path"]) == list(index["path"])
    np.testing.assert_allclose(table.iloc[:, 2:], wanted, rtol=1e-3, atol=1e-4)
    for name in ("f.zarr", "g.npy", "h.csv"):
        assert belonging(Path(name)).artifacts == ["checkpoints of epoch 2"]


def test_embed__unknown_layer_is_refused(finished_run: Path, some_images: Path) -> None:
    with pytest.raises(ConfigError, match="layer 'conv9' is unknown"):
        embed(str(finished_run), some_images, out=Path("f.zarr"), layer="conv9")


def test_assign__place_among_the_artifacts_is_refused(own_run: Path, some_images: Path) -> None:
    with pytest.raises(ConfigError, match="lies among the artifacts of the run"):
        assign(str(own_run), some_images, out=own_run / "labels" / "new.parquet")


def test_assign__pruned_checkpoint_names_the_command_that_makes_it(
    own_run: Path, some_images: Path
) -> None:
    prune(own_run / "checkpoints" / "epoch=0001")

    # A run counts what was deleted as made, so that going on with it would not help.
    said = rf"(?s)epoch=0001: is needed, but is pruned: .*stage train --run {own_run} --epoch 1\.$"
    with pytest.raises(ArtifactError, match=said):
        assign(str(own_run), some_images, out=OUT, epoch=2)


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_assign__labels_that_cannot_be_used_name_the_command_that_makes_them(
    harm: str, own_run: Path, some_images: Path
) -> None:
    labels = own_run / "labels" / "epoch=0002"
    if harm == "missing":
        shutil.rmtree(labels)
    else:
        (labels / "_clustering.safetensors").write_bytes(b"\0" * 100)

    said = rf"(?s)epoch=0002: is needed, but is {harm}.*deepcluster stage cluster .* --epoch 2"
    with pytest.raises(ArtifactError, match=said):
        assign(str(own_run), some_images, out=OUT, epoch=2)
    assign(str(own_run), some_images, out=OUT)  # left out, the last epoch that can be used
    about = pq.read_schema(OUT).metadata[b"deepcluster"]
    assert json.loads(about)["labels"]["epoch"] == 1


def test_assign__labels_of_another_network_are_refused(own_run: Path, some_images: Path) -> None:
    config = own_run / "config.yaml"
    config.write_text(config.read_text().replace("sobel: true", "sobel: false"))

    with pytest.raises(ArtifactError, match="epoch=0002: is needed, but is stale"):
        assign(str(own_run), some_images, out=OUT, epoch=2)


def test_assign__tells_how_far_it_is_in_lines_or_on_a_bar(
    finished_run: Path,
    tiny_images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stages.runs.progress.PLAIN_EVERY_S", 0.0)
    assign(str(finished_run), tiny_images, out=OUT)
    assert "assign epoch 2: 240 images of 240, 0 s left, " in capsys.readouterr().out

    terminal = Console(force_terminal=True, width=120)
    monkeypatch.setattr(new_images, "CONSOLE", terminal)
    assign(str(finished_run), tiny_images, out=Path("again.parquet"))
    assert "240/240" in capsys.readouterr().out
