"""What is written is what is read, whatever the values."""

import string
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deepcluster_core.artifacts.commit import new_artifact, write_manifest
from deepcluster_core.artifacts.file_names import INDEX
from deepcluster_core.artifacts.files import FileRecord
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.images_writer import ImagesWriter, PackedImage
from deepcluster_core.artifacts.manifest import Manifest, Provenance, read_manifest
from deepcluster_core.artifacts.packing import Packing
from deepcluster_core.artifacts.tables import (
    read_clustering,
    read_index,
    read_labels,
    read_metrics,
    read_table,
    write_labels,
    write_metrics,
)
from deepcluster_core.context import Context
from stages.index import index
from stages.runs.recipe import Recipe, load_recipe, save_recipe
from tests.support.recipes import PLAIN, write

IN_FILES = settings(deadline=None, max_examples=25)
unicode = st.text(st.characters(codec="utf-8"), max_size=20)
names = unicode | st.sampled_from(
    ["", " ", "\n", "\0", "a,b", '"', "é", "\u202e", "=", "null", "~"]
)
whole = st.integers(-(2**63), 2**63 - 1)
real = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | whole | real | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


# Configuration

positive = st.integers(1, 2**31)
share = st.floats(0.001, 1)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20)
ratios = st.tuples(st.floats(0.1, 1), st.floats(1, 9))
option = st.text(string.ascii_letters, min_size=1)
clusterings = st.one_of(
    st.fixed_dictionaries(
        {"algorithm": st.sampled_from(["kmeans", "spherical"]), "k": st.integers(2, 10_000)},
        optional={"max_points_per_centroid": st.none() | positive, "warm_start": st.booleans()},
    ),
    st.fixed_dictionaries({"algorithm": st.just("pic"), "k": st.just("auto")}),
    st.fixed_dictionaries(
        {"algorithm": st.just("python:own.module:make"), "k": st.integers(2, 99)},
        optional={"options": st.dictionaries(option, plain, max_size=3)},
    ),
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**64),
        "epochs": positive,
        "dataset": st.fixed_dictionaries(
            {"source": paths.map("/{}".format)},
            optional={
                "subset": st.none() | positive,
                "encoding": st.sampled_from(["raw", "jpeg", "png", "none"]),
                "max_skipped_fraction": st.floats(0, 1),
            },
        ),
        "cluster": clusterings,
        "train": st.fixed_dictionaries(
            {"lr": st.floats(1e-12, 10), "crop_area": st.tuples(share, st.just(1.0))},
            optional={
                "crop_ratio": ratios,
                "reassign_every": st.just("auto") | st.floats(0.01, 99),
                "batch_size": st.just("auto") | st.integers(2, 4096),
            },
        ),
        "keep": st.fixed_dictionaries({"features": st.none() | positive}),
    },
)


@IN_FILES
@given(changes)
def test_recipe__round_trip(changes: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        recipe = load_recipe(write(Path(folder) / "recipe.yaml", PLAIN), changes)
        save_recipe(recipe, Path(folder) / "saved.yaml")

        saved = load_recipe(Path(folder) / "saved.yaml")
        save_recipe(saved, Path(folder) / "again.yaml")

        assert saved == recipe
        texts = [(Path(folder) / name).read_bytes() for name in ("saved.yaml", "again.yaml")]
        assert texts[0] == texts[1]
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe, "as manifests hold it"


# Images and their index


@st.composite
def packed(draw: st.DrawFn) -> tuple[PackedImage, Any]:
    """Draw a picture as it is stored raw, and its pixels."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)), 1)
    pixels_HWC = draw(arrays.arrays(np.uint8, shape))
    image = PackedImage(
        path=draw(names),
        label=draw(st.none() | names),
        width=draw(st.integers(1, 2**31 - 1)),
        height=draw(st.integers(1, 2**31 - 1)),
        format=draw(st.sampled_from(["JPEG", "NPY"])),
        packed_height=shape[0],
        packed_width=shape[1],
        packed=Packing("raw", 95).stored(pixels_HWC),
    )
    return image, pixels_HWC


@IN_FILES
@given(st.lists(packed(), max_size=6), st.lists(st.tuples(names, names), max_size=2))
def test_images__round_trip(drawn: list[Any], skipped: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name) / "images"
        with new_artifact(
            index.identity, folder, config={}, inputs={}, context=Context(1)
        ) as draft:
            with ImagesWriter(folder, packs=True) as writer:
                for image, _ in drawn:
                    writer.add(image)
                for path, reason in skipped:
                    writer.skip(path, reason)
            draft.rows = len(drawn)
            draft.facts = {"encoding": "raw", "channels": 1, "shorter_side": None}
            draft.facts |= {"deep": "range", "originals": "None"}

        columns = ["path", "label", "width", "height"]
        rows = read_index(folder, columns, range(len(drawn)))
        images = Images(folder)
        found = [images[number].copy() for number in range(len(images))]
        told = read_table(folder / "skipped.parquet").to_pylist()

    assert [tuple(row.values()) for row in rows] == [
        (number, image.path, image.label, image.width, image.height)
        for number, (image, _) in enumerate(drawn)
    ]
    for pixels_HWC, (_, expected_HWC) in zip(found, drawn, strict=True):
        np.testing.assert_array_equal(pixels_HWC, expected_HWC)
    assert [tuple(row.values()) for row in told] == skipped


# Labels and metrics


@IN_FILES
@given(st.lists(names, min_size=1, max_size=12), st.integers(1, 2**15), st.data())
def test_labels__round_trip(paths: list[str], k: int, data: st.DataObject) -> None:
    ids = st.integers(0, k - 1)
    cluster_N = data.draw(arrays.arrays(np.int32, len(paths), elements=ids))
    distance_N = data.draw(arrays.arrays(np.float32, len(paths)))
    centroids_KQ = np.zeros((k, 1), np.float32)
    with TemporaryDirectory() as name:
        images, labels = Path(name) / "images", Path(name) / "labels"
        labels.mkdir()
        write_paths(images, paths)

        write_labels(
            labels,
            images=images,
            cluster_N=cluster_N,
            distance_N=distance_N,
            clustering={"centroids": centroids_KQ},
        )
        found, stored = read_labels(labels), read_table(labels / "labels.parquet")["path"]
        np.testing.assert_array_equal(read_clustering(labels)["centroids"], centroids_KQ)

    np.testing.assert_array_equal(found.cluster_N, cluster_N)
    np.testing.assert_array_equal(found.distance_N, distance_N)
    assert (found.k, stored.to_pylist()) == (k, paths)


def write_paths(images: Path, paths: list[str]) -> None:
    images.mkdir()
    with ImagesWriter(images, packs=False) as writer:
        for path in paths:
            writer.add(PackedImage(path, None, 1, 1, "PNG", 1, 1, b""))
    assert (images / INDEX).exists()


@IN_FILES
@given(st.dictionaries(unicode.filter(bool), st.none() | whole | real | names, min_size=1))
def test_metrics__round_trip(row: dict[str, float | int | str | None]) -> None:
    with TemporaryDirectory() as folder:
        write_metrics(Path(folder), row)

        assert read_metrics(Path(folder)) == row


# Manifests

hexadecimal = st.text("0123456789abcdef", max_size=64)
records = st.builds(FileRecord, bytes=whole, sha256=hexadecimal, mtime_ns=whole)
provenances = st.builds(
    Provenance,
    created=names,
    code_version=names,
    git_commit=st.none() | hexadecimal,
    python=names,
    libraries=st.dictionaries(names, names, max_size=3),
    device=names,
)
manifests = st.builds(
    Manifest,
    stage=names,
    version=whole,
    key=hexadecimal,
    digest=hexadecimal,
    inputs=st.dictionaries(names, hexadecimal, max_size=3),
    config=st.dictionaries(names, plain, max_size=3),
    seed=st.integers(),
    epoch=st.none() | whole,
    rows=whole,
    bytes=whole,
    seconds=real,
    peak_memory_bytes=whole,
    peak_device_bytes=st.none() | whole,
    facts=st.dictionaries(names, plain, max_size=3),
    files=st.dictionaries(paths, records, max_size=3).filter(lambda files: ".." not in files),
    provenance=provenances,
    ranks=st.none() | whole,
    moved_bytes=st.none() | st.dictionaries(names, whole, max_size=3),
    pruned=st.booleans(),
)


@IN_FILES
@given(manifests)
def test_manifest__round_trip(manifest: Manifest) -> None:
    with TemporaryDirectory() as folder:
        write_manifest(Path(folder), manifest)

        assert read_manifest(Path(folder)) == manifest.sealed()
