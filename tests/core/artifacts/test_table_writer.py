"""A table is written piece by piece, and its bytes do not depend on the pieces."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepcluster_core.artifacts.table_writer import TableWriter

SCHEMA = pa.schema({"number": pa.int64(), "text": pa.string()})


def write(path: Path, pieces: list[range], *, group_rows: int) -> bytes:
    with TableWriter(path, SCHEMA, group_rows=group_rows) as writer:
        for piece in pieces:
            writer.add(list(piece), [f"text {number}" for number in piece])
    assert writer.num_rows == sum(map(len, pieces))
    return path.read_bytes()


@pytest.mark.parametrize("ends", [[23], [10, 20, 23], [1, 2, 9, 12, 21, 23], [0, 19, 23, 23]])
def test_table_writer__bytes_depend_on_the_rows_alone(tmp_path: Path, ends: list[int]) -> None:
    pieces = [range(first, end) for first, end in zip([0, *ends], ends, strict=False)]

    data = write(tmp_path / "pieces", pieces, group_rows=10)

    assert data == write(tmp_path / "rows", [range(n, n + 1) for n in range(23)], group_rows=10)
    with pq.ParquetFile(tmp_path / "pieces", page_checksum_verification=True) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        assert file.read().column("number").to_pylist() == list(range(23))
    assert sizes == [10, 10, 3]


@pytest.mark.parametrize("num", [0, 5, 10])
def test_table_writer__small_tables_have_the_bytes_of_write_table(tmp_path: Path, num: int) -> None:
    texts = [f"text {number}" for number in range(num)]
    table = pa.table([list(range(num)), texts], schema=SCHEMA)
    pq.write_table(table, tmp_path / "at once", write_page_checksum=True)

    data = write(tmp_path / "pieces", [range(num)], group_rows=10)

    assert data == (tmp_path / "at once").read_bytes(), "so artifacts keep their digests"


def test_table_writer__closes_the_file_after_an_error(tmp_path: Path) -> None:
    def break_off() -> None:
        with TableWriter(tmp_path / "x", SCHEMA) as writer:
            writer.add([1], ["a"])
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        break_off()

    assert len(pq.read_table(tmp_path / "x")) == 0
