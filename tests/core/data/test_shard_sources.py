import io
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepcluster_core.data.sources import SourceImage, open_source
from tests.support.sources import error_of, images, labels_of, paths, reason
from tests.support.timeouts import WITHIN_S

# Parquet

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write_parquet(
    path: Path, data: list[Any], type: pa.DataType | None = None, **columns: pa.Array
) -> Path:
    column = "bytes" if type is None else "image"
    table = {column: pa.array(data, type or pa.binary()), **columns}
    pq.write_table(pa.table(table), path, row_group_size=2)
    return path


def test_parquet__hugging_face_layout(tmp_path: Path) -> None:
    rows = [{"bytes": b"%d" % i, "path": f"d/{i}.png"} for i in range(5)]
    file = write_parquet(tmp_path / "x.parquet", rows, STRUCT, label=pa.array([3, 1, 4, 1, None]))

    found = images(file)

    assert [image.path for image in found] == [f"d/{i}.png" for i in range(5)]
    assert [image.label for image in found] == ["3", "1", "4", "1", None]
    assert [image.read() for image in found] == [b"0", b"1", b"2", b"3", b"4"]
    assert labels_of(file, labels="none") == [None] * 5
    assert open_source(file).count() == 5


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet__labels_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    label = pa.array(["dog", None], pa.string()).cast(kind)

    assert labels_of(write_parquet(tmp_path / "x.parquet", [b"1", b"2"], label=label)) == [
        "dog",
        None,
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("column", ["image", "bytes"])
def test_parquet__plain_binary_column(tmp_path: Path, kind: pa.DataType, column: str) -> None:
    pq.write_table(pa.table({column: pa.array([b"1", b"2"], kind)}), tmp_path / "x.parquet")

    found = images(tmp_path / "x.parquet")

    assert [image.path for image in found] == ["x.parquet#0", "x.parquet#1"]
    assert [image.read() for image in found] == [b"1", b"2"]


def test_parquet__nulls_come_and_cannot_be_read(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "a.png"}, None, {"bytes": b"3", "path": None}]
    found = images(write_parquet(tmp_path / "x.parquet", rows, STRUCT))

    assert [image.path for image in found] == ["a.png", "x.parquet#1", "x.parquet#2"]
    assert [reason(image) for image in found[:2]] == ["the row holds no image (null)"] * 2
    assert found[2].read() == b"3"


def test_parquet__folder_is_sorted_and_paths_stay_unique(tmp_path: Path) -> None:
    for name in ("b", "a"):
        rows = [{"bytes": name.encode(), "path": "0.png"}, {"bytes": b"", "path": None}]
        write_parquet(tmp_path / f"{name}.parquet", rows, STRUCT)
    (tmp_path / "README.md").touch()

    found = images(tmp_path)

    expected = ["a.parquet/0.png", "a.parquet#1", "b.parquet/0.png", "b.parquet#1"]
    assert [image.path for image in found] == expected
    assert found[2].read() == b"b"
    assert open_source(tmp_path).count() == 4


def test_parquet__paths_stored_twice_are_not_used(tmp_path: Path) -> None:
    rows = [{"bytes": b"", "path": "image.png"}] * 3

    expected = [f"x.parquet#{row}" for row in range(3)]
    assert paths(write_parquet(tmp_path / "x.parquet", rows, STRUCT)) == expected


def test_parquet__rows_stay_in_order_over_batches(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", [b"%d" % i for i in range(300)])

    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda image: image.read(), open_source(file).images()))

    assert read == [b"%d" % i for i in range(300)]


def test_parquet__is_not_read_as_a_whole(tmp_path: Path) -> None:
    data = [os.urandom(1 << 16) for _ in range(320)]
    file = write_parquet(tmp_path / "x.parquet", data)
    before = pa.total_allocated_bytes()

    found = open_source(file).images()
    first = next(iter(found))
    held = pa.total_allocated_bytes() - before

    assert first.read() == data[0]
    assert held < 3 * 64 << 16, "a batch of 64 images, not all 320"


def test_parquet__wrong_columns_are_listed(tmp_path: Path) -> None:
    table = pa.table({"picture": [b""], "text": [""], "image": [1]})
    pq.write_table(table, tmp_path / "x.parquet")

    text = error_of(tmp_path / "x.parquet")
    assert "the columns are picture: binary, text: string, image: int64" in text
    assert "struct(bytes: binary, path: string)" in text


def test_parquet__wrong_label_is_an_error_unless_forgotten(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", [b"1"], label=pa.array([[1, 2]]))

    assert "label must be integers or strings" in error_of(file)
    assert labels_of(file, labels="none") == [None]


def test_parquet__damaged_file(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", [os.urandom(999) for _ in range(99)])
    data = bytearray(file.read_bytes())
    file.write_bytes(data[:-100])
    assert "x.parquet: cannot be read as Parquet" in error_of(file)

    data[4:2000] = bytes(1996)
    file.write_bytes(data)
    assert "x.parquet: cannot be read as Parquet" in error_of(file)


# Tar


def write_tar(path: Path, members: dict[str, bytes], *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in odd:
            archive.addfile(info)
    return path


def test_tar__members_in_stored_order_with_labels(tmp_path: Path) -> None:
    members = {"b.png": b"B", "b.cls": b"7\n", "a.cls": b"cat", "a.json": b"{}", "a.JPG": b"A"}
    members |= {"c.png": b"C", "d.cls": b" ", "d.png": b"D", "e.left.png": b"E", "e.cls": b"1"}
    file = write_tar(tmp_path / "x.tar", members)

    found = images(file)

    assert [image.path[6:] for image in found] == ["b.png", "a.JPG", "c.png", "d.png", "e.left.png"]
    assert [image.label for image in found] == ["7", "cat", None, None, "1"]
    assert [image.read() for image in found] == [b"B", b"A", b"C", b"D", b"E"]
    assert labels_of(file, labels="none") == [None] * 5
    assert open_source(file).count() is None


def test_tar__folder_of_shards_is_sorted(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_tar(tmp_path / f"{name}.tar", {"0.png": name.encode()})

    found = images(tmp_path)

    assert [image.path for image in found] == ["a.tar/0.png", "b.tar/0.png"]
    assert [image.read() for image in found] == [b"a", b"b"]


def test_tar__bad_members_are_passed_over_or_made_harmless(tmp_path: Path) -> None:
    odd = []
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
        info = tarfile.TarInfo(f"odd{number}.png")
        info.type, info.linkname = kind, "/etc/passwd"
        odd.append(info)
    device = tarfile.TarInfo("device.png")
    device.type = tarfile.CHRTYPE
    folder = tarfile.TarInfo("folder.png")
    folder.type = tarfile.DIRTYPE
    members = {"/etc/a.png": b"1", "../../b.png": b"2", "./c/./d.png": b"3", "._e.png": b"4"}
    members |= {
        "__MACOSX/f.png": b"5",
        "caf\udce9.png": b"6",
        "g.txt": b"7",
        "l" * 200 + ".png": b"8",
    }
    inner = tmp_path / "a/b/c"
    inner.mkdir(parents=True)

    found = images(write_tar(inner / "x.tar", members, *odd, device, folder))

    expected = ["etc/a.png", "b.png", "c/d.png", r"caf\xe9.png", "l" * 200 + ".png"]
    assert [image.path for image in found] == [f"x.tar/{name}" for name in expected]
    assert [image.read() for image in found] == [b"1", b"2", b"3", b"6", b"8"]
    files = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert files == [inner / "x.tar"], "nothing is extracted"


def test_tar__sparse_members_are_passed_over(tmp_path: Path) -> None:
    info = tarfile.TarInfo("sparse.png")
    info.type = tarfile.GNUTYPE_SPARSE
    write_tar(tmp_path / "x.tar", {"a.png": b"1"}, info)

    assert paths(tmp_path / "x.tar") == ["x.tar/a.png"]


def test_tar__reads_from_threads_while_it_goes_on(tmp_path: Path) -> None:
    members = {f"{i:04}.png": b"%d" % i * 600 for i in range(200)}
    file = write_tar(tmp_path / "x.tar", members)
    started = threading.Barrier(2, timeout=WITHIN_S)

    def read(image: SourceImage) -> bytes:
        if image.path.endswith("0000.png"):
            started.wait()  # until the iteration is half way
        return image.read()

    with ThreadPoolExecutor(4) as pool:
        futures = []
        for number, image in enumerate(open_source(file).images()):
            futures.append(pool.submit(read, image))
            if number == 100:
                started.wait()
        assert [future.result() for future in futures] == list(members.values())


def test_tar__shards_that_break_off_are_errors(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", {"a.png": b"1" * 5000, "b.png": b"2" * 5000})
    data = file.read_bytes()

    file.write_bytes(data[:3000])
    assert "x.tar: cannot be read as a tar file (unexpected end" in error_of(file)
    file.write_bytes(data[:6000])  # inside the header of b
    assert "x.tar: cannot be read as a tar file (damaged or cut off at byte 5632)" in error_of(file)
    file.write_bytes(data[:5632] + b"x" * 512 + data[6144:])
    assert "damaged or cut off at byte 5632" in error_of(file)
    file.write_bytes(data[: 2 * 5632])  # after b, without the closing zeros: complete
    assert len(paths(file)) == 2


def test_tar__cut_after_it_was_listed(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", {"a.png": b"1" * 5000})
    (image,) = images(file)
    os.truncate(file, 3000)

    assert reason(image) == "the tar file is cut off inside this member"


def test_tar__compressed_or_no_tar_at_all(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    assert "compressed tar files must be unpacked" in error_of(tmp_path / "x.tar")

    (tmp_path / "y.tar").write_bytes(b"no tar")
    assert "cannot be read as a tar file" in error_of(tmp_path / "y.tar")


def test_tar__holds_no_list_of_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, next_member = [], tarfile.TarFile.next

    def spy(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        held.append(len(vars(archive)["members"]))
        return next_member(archive)

    monkeypatch.setattr(tarfile.TarFile, "next", spy)
    images(write_tar(tmp_path / "x.tar", {f"{i}.png": b"" for i in range(50)}))

    assert max(held) <= 1
