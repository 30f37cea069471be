"""Data frames of images. Suffixes: H rows, W columns, C channels."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import deepcluster
from deepcluster_core.data.decode import decode
from deepcluster_core.data.sources import open_source
from deepcluster_core.errors import ArtifactError, DeepClusterError
from tests.support.recipes import write_small_recipe

PIXELS_HWC = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)


def png_of(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def written(tmp_path: Path, *cells: Any) -> Path:  # noqa: ANN401  any kind of image
    frame = pd.DataFrame({"image": pd.Series(list(cells), dtype=object)})
    return deepcluster.images_from_frame(frame, tmp_path / "images.parquet")


def test_images_from_frame__every_kind_of_image(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png_of(PIXELS_HWC))
    image = Image.fromarray(PIXELS_HWC)
    cells = [str(file), file.read_bytes(), image, PIXELS_HWC, {"bytes": png_of(PIXELS_HWC)}, file]

    source = open_source(written(tmp_path, *cells))

    found = list(source.images())
    assert [one.path for one in found] == [str(file), *(f"{number:06}" for number in range(1, 6))]
    assert {one.label for one in found} == {None}
    for one in found:
        decoded = decode(one.read(), channels=3, shorter_side=None)
        np.testing.assert_array_equal(decoded.pixels_HWC, PIXELS_HWC)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 9), "uint8"), ((8, 9), "uint16"), ((8, 9, 5), "uint8")]
)
def test_images_from_frame__arrays_are_stored_without_loss(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    values = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    (image,) = open_source(written(tmp_path, values)).images()

    decoded = decode(image.read(), channels=shape[2] if len(shape) == 3 else 1, shorter_side=None)

    if dtype == "uint8":
        np.testing.assert_array_equal(decoded.pixels_HWC.reshape(shape), values)
    else:
        np.testing.assert_array_equal(np.load(io.BytesIO(image.read())), values)


def test_images_from_frame__labels_and_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"scan": [png_of(PIXELS_HWC)] * 3, "kind": ["cat", None, 3.0]})

    out = deepcluster.images_from_frame(
        frame, tmp_path / "images.parquet", image="scan", label="kind"
    )

    assert [image.label for image in open_source(out).images()] == ["cat", None, "3"]
    described = json.loads(pq.read_schema(out).metadata[b"huggingface"])
    assert described["info"]["features"]["image"] == {"_type": "Image"}


def test_images_from_frame__a_recipe_reads_it(tmp_path: Path, tiny_images: Path) -> None:
    files = sorted(tiny_images.rglob("*.png"))[:40]
    frame = pd.DataFrame({"image": files, "label": [file.parent.name for file in files]})
    out = deepcluster.images_from_frame(frame, tmp_path / "images.parquet", label="label")

    run = deepcluster.run_epochs(
        str(write_small_recipe(tmp_path / "r.yaml", out)), run=tmp_path / "run", epochs=0
    )

    labels = run.labels()
    assert labels["path"].tolist() == [str(file) for file in files]
    assert labels["true_label"].tolist() == frame["label"].tolist()


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("missing.png", "row 0: missing.png: No such file"),
        (3, "row 0: int is no path"),
        (np.zeros((4, 4)), "array of float64 and shape"),
        (Image.new("CMYK", (4, 4)), "images of mode CMYK have no lossless file"),
        ({"bytes": None, "path": None}, "NoneType is no path"),
    ],
)
def test_images_from_frame__cells_that_are_no_images(
    tmp_path: Path, cell: object, why: str
) -> None:
    with pytest.raises(DeepClusterError) as error:
        written(tmp_path, cell)

    assert why in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_images_from_frame__photographs_of_pillow_are_upright(tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(PIXELS_HWC).save(file, exif=exif)

    source = open_source(written(tmp_path, Image.open(file), file))

    opened, by_path = (
        decode(image.read(), channels=3, shorter_side=None).pixels_HWC for image in source.images()
    )
    assert opened.shape == (24, 20, 3)
    np.testing.assert_array_equal(opened, by_path)


def test_images_from_frame__damaged_photograph_of_pillow(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS_HWC).save(file, "JPEG")
    cut_short = Image.open(io.BytesIO(file.getvalue()[:-200]))

    with pytest.raises(DeepClusterError, match="row 0: image file is truncated"):
        written(tmp_path, cut_short)


def test_images_from_frame__what_does_not_fit(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": [png_of(PIXELS_HWC)]})
    out = deepcluster.images_from_frame(frame, tmp_path / "a.parquet")

    with pytest.raises(DeepClusterError, match="no column 'scan'"):
        deepcluster.images_from_frame(frame, tmp_path / "b.parquet", image="scan")
    with pytest.raises(DeepClusterError, match=r"must end in \.parquet"):
        deepcluster.images_from_frame(frame, tmp_path / "b.csv")
    with pytest.raises(DeepClusterError, match="no rows"):
        deepcluster.images_from_frame(frame.head(0), tmp_path / "b.parquet")
    with pytest.raises(ArtifactError, match="exists already"):
        deepcluster.images_from_frame(frame, out)
