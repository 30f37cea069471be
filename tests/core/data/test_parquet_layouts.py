"""Parquet files as different programs write them: types of Arrow, columns and labels."""

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepcluster_core.data.sources import open_source
from deepcluster_core.errors import ConfigError, SourceError
from tests.support.sources import error_of, images, labels_of, paths, reason

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
DATA = [b"one", b"two", b"six"]
ROWS = [{"bytes": data, "path": f"{data.decode()}.png"} for data in DATA]


class Named(pa.ExtensionType):  # pyright: ignore[reportUntypedBaseClass]
    """A type around another one, as data sets register for images and labels."""

    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, "tests.named")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, _: bytes) -> "Named":
        return cls(storage)


def write(path: Path, /, **columns: Any) -> Path:  # noqa: ANN401  arrays or lists
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def described(path: Path, features: bytes, /, **columns: Any) -> Path:  # noqa: ANN401
    """Write a file with what the Hugging Face hub stores about its columns."""
    pq.write_table(pa.table(columns).replace_schema_metadata({b"huggingface": features}), path)
    return path


def refused(location: Path, image_key: str | None = None) -> str:
    with pytest.raises((ConfigError, SourceError)) as error:
        list(open_source(location, image_key=image_key and [image_key]).images())
    return str(error.value)


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary_view(),
        pa.binary(3),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.binary()),
        pa.struct({"bytes": pa.binary_view(), "path": pa.string_view()}),
        pa.struct({"path": pa.large_string(), "more": pa.int8(), "bytes": pa.large_binary()}),
        pa.list_(STRUCT),
        pa.large_list(pa.binary_view()),
        pa.list_(pa.binary(), 1),
    ],
    ids=str,
)
def test_parquet__images_of_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    rows: list[Any] = ROWS if "struct" in str(kind) else DATA
    if "list" in str(kind):
        rows = [[row] for row in rows]
    column = pa.array(DATA).dictionary_encode() if "dictionary" in str(kind) else rows
    file = write(tmp_path / "x.parquet", image=pa.array(column, kind))

    assert [image.read() for image in images(file)] == DATA
    expected = [row["path"] for row in ROWS] if pa.types.is_struct(kind) else None
    assert paths(file) == (expected or [f"x.parquet#{row}" for row in range(3)])


def test_parquet__extension_types_are_read_as_what_they_store(tmp_path: Path) -> None:
    pa.register_extension_type(Named(STRUCT))
    try:
        image = pa.ExtensionArray.from_storage(Named(STRUCT), pa.array(ROWS, STRUCT))
        label = pa.ExtensionArray.from_storage(Named(pa.int8()), pa.array([1, 2, None], pa.int8()))
        file = write(tmp_path / "x.parquet", image=image, label=label)

        assert [image.read() for image in images(file)] == DATA
        assert labels_of(file) == ["1", "2", None]
    finally:
        pa.unregister_extension_type("tests.named")


def test_parquet__lists_hold_one_image_a_row(tmp_path: Path) -> None:
    none = write(tmp_path / "0.parquet", images=pa.array([[b"1"], [], None], pa.list_(pa.binary())))
    two = write(tmp_path / "1.parquet", images=[[b"1"], [b"2", b"3"]])

    found = images(none)

    assert found[0].read() == b"1"
    assert [reason(image) for image in found[1:]] == ["the row holds no image (null)"] * 2
    assert "row 1 holds a list of 2 images, not one image" in error_of(two)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (pa.array(["a", None, ""], pa.string_view()), ["a", None, None]),
        (pa.array([b"a", b"b", None], pa.binary(1)), ["a", "b", None]),
        (pa.array([b"a", b"\xff", None], pa.binary_view()), ["a", "\\xff", None]),
        (pa.array([3.0, None, float("nan")]), ["3", None, None]),
        (pa.array([3.5, -0.0, 1e20]), ["3.5", "0", "100000000000000000000"]),
        (pa.array([Decimal("3.00"), Decimal("2.50"), None]), ["3", "2.50", None]),
        (pa.array([True, False, None]), ["True", "False", None]),
        (pa.nulls(3), [None] * 3),
        (pa.nulls(3, pa.int64()), [None] * 3),
        (pa.array([datetime.date(2024, 1, 2)] * 3), ["2024-01-02"] * 3),
        (pa.array(["nan", "NULL", "none"]), [None, None, "none"]),
        (pa.array(["a", "b", None]).dictionary_encode(), ["a", "b", None]),
        (pa.array([5, 6, None]).dictionary_encode(), ["5", "6", None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_parquet__labels_of_every_type(
    tmp_path: Path, label: pa.Array, expected: list[str | None]
) -> None:
    file = write(tmp_path / "x.parquet", image=DATA, label=label)

    assert labels_of(file) == expected


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("cls", [1, 2, None], ["1", "2", None]),
        ("json", ['{"label": 1}', "{}", "no JSON"], ["1", None, None]),
        ("json", [b'{"label": 1}', None, b"2"], ["1", None, "2"]),
        ("json", [{"class": "a"}, {"class": "b"}, None], ["a", "b", None]),
    ],
)
def test_parquet__columns_of_webdataset(
    tmp_path: Path, column: str, values: list[Any], expected: list[str | None]
) -> None:
    keys = ["k/1", "k/2", "k/3"]
    file = write(tmp_path / "x.parquet", jpg=DATA, __key__=keys, **{column: values})

    assert labels_of(file) == expected
    assert paths(file) == keys
    assert [image.read() for image in images(file)] == DATA


def test_parquet__keys_of_webdataset_beside_structs_without_a_path(tmp_path: Path) -> None:
    rows = pa.array([{"bytes": data} for data in DATA])
    file = write(tmp_path / "x.parquet", jpg=rows, __key__=["a", "b", "c"])

    assert paths(file) == ["a", "b", "c"]
    assert [image.read() for image in images(file)] == DATA


def test_parquet__a_column_is_chosen_by_image_key(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", jpg=DATA, png=DATA[::-1], right=DATA)

    assert "several columns hold images: jpg, png" in refused(file)
    assert "dataset.image_key: jpg" in refused(file)
    chosen = open_source(file, image_key=["png"]).images()
    assert [image.read() for image in chosen] == DATA[::-1]
    assert "depth is not a column of encoded images" in refused(file, "depth")
    assert "choose one of these: jpg, png, right" in refused(file, "depth")


def test_parquet__other_columns_of_images_are_reported(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", image=pa.array(ROWS, STRUCT), mask=pa.array(ROWS, STRUCT))

    (note,) = open_source(file).notes()
    assert note.startswith("columns of images that are not read: mask;")


def test_parquet__paths_without_images_are_refused(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": f"../{n}.jpg"} for n in range(3)]
    file = write(tmp_path / "x.parquet", image=pa.array(rows, STRUCT))

    assert "image.bytes is null in each of its 3 rows" in error_of(file)
    assert "a .csv with the columns path and label" in error_of(file)


def test_parquet__minus_one_of_a_class_label_is_no_label(tmp_path: Path) -> None:
    features = b'{"info": {"features": {"label": {"names": ["a"], "_type": "ClassLabel"}}}}'
    known = described(tmp_path / "a.parquet", features, image=DATA, label=[0, -1, 1])
    other = described(tmp_path / "b.parquet", b"[]", image=DATA, label=[0, -1, 1])

    assert labels_of(known) == ["a", None, "1"], "a number without a name stays a number"
    assert labels_of(other) == ["0", "-1", "1"]


def test_parquet__labels_of_different_files(tmp_path: Path) -> None:
    write(tmp_path / "a/0.parquet", image=DATA, label=[1, 2, 3])
    write(tmp_path / "a/1.parquet", image=DATA, label=["x", "y", "z"])
    write(tmp_path / "b/0.parquet", image=DATA, label=[1, 2, 3])
    write(tmp_path / "b/1.parquet", image=DATA, label=[1.0, None, 3.0])
    write(tmp_path / "b/2.parquet", image=DATA, label=pa.nulls(3))
    write(tmp_path / "b/3.parquet", image=DATA)

    assert "labels are numbers in 0.parquet but names in 1.parquet" in error_of(tmp_path / "a")
    assert labels_of(tmp_path / "a", labels="none") == [None] * 6
    assert labels_of(tmp_path / "b") == ["1", "2", "3", "1", None, "3", *[None] * 6]
    (note,) = open_source(tmp_path / "b").notes()
    assert note == "files without a column of labels: 1 of 4, for example 3.parquet"


def test_parquet__partitions_are_labels(tmp_path: Path) -> None:
    root = tmp_path / "x.parquet"
    for value in ("cat", "a%20b", "__HIVE_DEFAULT_PARTITION__"):
        write(root / f"year=1/label={value}" / "part-0.parquet", image=[value.encode()])
    (root / "_SUCCESS").touch()

    source = open_source(root)

    found = {image.read(): (image.path, image.label) for image in source.images()}
    assert found[b"cat"] == ("year=1/label=cat/part-0.parquet#0", "cat")
    assert found[b"a%20b"][1] == "a b"
    assert found[b"__HIVE_DEFAULT_PARTITION__"][1] is None
    assert source.count() == 3
    assert labels_of(root, labels="none") == [None] * 3


def test_parquet__splits_in_one_folder_are_reported(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        write(tmp_path / "data" / f"{name}.parquet", image=DATA)

    (note,) = open_source(tmp_path / "data").notes()
    assert note.startswith("files of several splits are read as one data set: test, train")
    assert f"give the folder that the shards are in: {tmp_path / 'data'}" in error_of(tmp_path)


def lfs(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def web_page(path: Path) -> None:
    path.write_bytes(b"<!doctype html><html>404</html>")


def encrypted(path: Path) -> None:
    path.write_bytes(b"PARE" + bytes(40) + b"PARE")


def arrow(path: Path) -> None:
    with pa.ipc.new_file(path, pa.schema({"image": pa.binary()})):
        pass


@pytest.mark.parametrize("ending", ["parquet", "tar"])
@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lfs, "a Git LFS pointer, not the file itself"),
        (web_page, "a web page, perhaps of a failed download"),
        (encrypted, "an encrypted Parquet file"),
        (arrow, "an Arrow file"),
        (Path.touch, "empty file, 0 bytes"),
    ],
)
def test_open_source__names_what_a_file_really_is(
    tmp_path: Path, make: Callable[[Path], None], cause: str, ending: str
) -> None:
    make(tmp_path / f"x.{ending}")

    assert f"({cause})" in error_of(tmp_path / f"x.{ending}")


@pytest.mark.parametrize("name", ["x.tar.zst", "x.tar.bz2", "x.tar.xz"])
def test_open_source__compressed_tar_files_must_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    for location in (tmp_path, tmp_path / name):
        assert f"compressed tar files must be unpacked first, for example: tar -xf {name}" in (
            error_of(location)
        )


def test_open_source__image_key_fits_samples_only(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()

    assert f"but {tmp_path} is of kind folder" in refused(tmp_path, "jpg")


def class_names(*names: str) -> bytes:
    """Return the metadata of a file whose label is a ClassLabel."""
    feature = {"names": names, "_type": "ClassLabel"}
    return json.dumps({"info": {"features": {"label": feature}}}).encode()


def test_parquet__class_names_of_hugging_face_are_labels(tmp_path: Path) -> None:
    cats = class_names("cat", "dog")
    described(tmp_path / "a.parquet", cats, image=DATA, label=[1, 0, None])
    # The numbers of this file mean other classes.
    described(tmp_path / "b.parquet", class_names("emu", "cat"), image=DATA, label=[1, 0, 0])
    write(tmp_path / "c.parquet", image=DATA, label=["owl", "cat", "owl"])

    found = labels_of(tmp_path)

    assert found == ["dog", "cat", None, "cat", "emu", "emu", "owl", "cat", "owl"]
    assert open_source(tmp_path).notes() == []


def test_parquet__class_names_in_some_of_the_files_only_are_not_used(tmp_path: Path) -> None:
    described(tmp_path / "a.parquet", class_names("cat", "dog"), image=DATA, label=[1, 0, -1])
    write(tmp_path / "b.parquet", image=DATA, label=[1, 0, 1])

    assert labels_of(tmp_path) == ["1", "0", None, "1", "0", "1"]
    assert open_source(tmp_path).notes() == [
        "labels are numbers: only some of the files name their classes"
    ]


@pytest.mark.parametrize("names", [("cat", "cat"), ("cat", ""), ()])
def test_parquet__class_names_that_do_not_tell_apart_are_not_used(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    file = described(tmp_path / "a.parquet", class_names(*names), image=DATA, label=[1, 0, 1])

    assert labels_of(file) == ["1", "0", "1"]


def test_parquet__label_key_names_the_column(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write(file, image=DATA, label=[1, 2, 3], species=["fox", "owl", "fox"])

    found = [image.label for image in open_source(file, label_key="species").images()]

    assert found == ["fox", "owl", "fox"]
    with pytest.raises(ConfigError, match="label_key: genus is not a column"):
        open_source(file, label_key="genus")


def test_open_source__label_key_fits_samples_only(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()

    with pytest.raises(ConfigError, match="label_key: species names the label of a sample"):
        open_source(tmp_path, label_key="species")
