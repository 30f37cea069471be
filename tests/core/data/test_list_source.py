from pathlib import Path

import pytest

from deepcluster_core.data.sources import listing, open_source
from deepcluster_core.errors import SourceError
from tests.core.data.listed import error_of, images, labels_of, paths, put, reason


def test_fingerprint__of_a_list_knows_labels_and_not_the_order_of_lines(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    lists = tmp_path / "list.csv"

    def fingerprint(text: str) -> str:
        lists.write_text(f"path,label\n{text}")
        return open_source(lists).fingerprint()

    first = fingerprint("a.png,1\nb.png,2\n")
    assert fingerprint("b.png,2\na.png,1\n") == first
    assert fingerprint("a.png,1\nb.png,3\n") != first


def test_list__of_text_is_sorted_and_read_beside_the_list(tmp_path: Path) -> None:
    put(tmp_path, "data/b.png", "data/a.png", "data/c d.png ")
    absolute = put(tmp_path / "other", "z.png") / "z.png"
    lists = tmp_path / "data/list.txt"
    lists.write_bytes(f"\ufeffb.png\r\n\r\n./a.png\n  \n{absolute}\nc d.png ".encode())

    found = images(lists)

    assert [image.path for image in found] == [str(absolute), "a.png", "b.png", "c d.png "]
    assert [image.label for image in found] == [None] * 4
    assert [image.read() for image in found[1:3]] == [b"data/a.png", b"data/b.png"]
    assert found[0].read() == b"z.png"
    assert open_source(lists).count() == 4


def test_list__takes_files_of_any_extension(tmp_path: Path) -> None:
    put(tmp_path, "0001")
    (tmp_path / "list.txt").write_text("0001\n")

    assert images(tmp_path / "list.txt")[0].read() == b"0001"


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_list__of_columns_has_labels(tmp_path: Path, suffix: str, delimiter: str) -> None:
    put(tmp_path, "b,1.png", "a.png", "c.png")
    rows = ["id,label,path", '7,dog,"b,1.png"', "", "8,,a.png", "9, cat ,c.png"]
    text = "\n".join(rows)
    if delimiter == "\t":
        text = text.replace('"b,1.png"', "b;1.png").replace(",", "\t").replace("b;1", "b,1")
    lists = tmp_path / f"list.{suffix}"
    lists.write_text(text)

    assert paths(lists) == ["a.png", "b,1.png", "c.png"]
    assert labels_of(lists) == [None, "dog", "cat"]
    assert labels_of(lists, labels="none") == [None] * 3
    assert images(lists)[1].read() == b"b,1.png"


def test_list__missing_files_come_and_cannot_be_read(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    lists = tmp_path / "list.txt"
    lists.write_bytes(b"a.png\ngone.png\n.\n" + b"\n" * 4096 + b"no\0name")

    by_path = {image.path: image for image in images(lists)}

    assert by_path["a.png"].read() == b"a.png"
    assert reason(by_path["gone.png"]) == "No such file or directory"
    assert reason(by_path["."]) == "not a regular file"
    assert "not a file name" in reason(by_path["no\0name"])
    assert open_source(lists).fingerprint()


@pytest.mark.parametrize("at_once", [2, 500_000])
def test_list__duplicates_are_named_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(listing, "SORTED_AT_ONCE", at_once)
    (tmp_path / "list.txt").write_text("z.png\na.png\nb.png\n\n./z.png\n")

    with pytest.raises(SourceError, match=r"lines 1 and 5 both name 'z.png'"):
        next(open_source(tmp_path / "list.txt").images())


@pytest.mark.parametrize("at_once", [1, 3, 4, 5, 9, 10, 11])
def test_list__long_lists_are_sorted_through_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    lists = tmp_path / "list.csv"
    rows = [b"path,label", *(b"%d,l%d" % (i, i) for i in range(8)), b'"\xff\n",odd', b"\xc3\xbc,"]
    lists.write_bytes(b"\n".join(rows))
    expected = [(image.path, image.label) for image in images(lists)]
    monkeypatch.setattr(listing, "SORTED_AT_ONCE", at_once)

    assert [(image.path, image.label) for image in images(lists)] == expected
    assert len(expected) == 10
    assert expected[-2:] == [("ü", None), ("\\xff\n", "odd")]


def test_list__half_read_long_list_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SORTED_AT_ONCE", 2)
    (tmp_path / "list.txt").write_text("\n".join("edcba"))
    found = open_source(tmp_path / "list.txt").images()

    assert next(found).path == "a"
    del found  # a file left open would be a ResourceWarning, and so an error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.png,1\n", "needs a column named path in its first line, has ['file'"),
        ("", "needs a column named path"),
        ("path,label\na, b.png,1\n", "line 2 has 3 columns, the header 2"),
        ("path,label\na.png,1\n,2\n", "line 3 has no path"),
        ('path,label\n"a.png,1\n', "unexpected end of data"),
    ],
)
def test_list__bad_tables_say_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.csv").write_text(text)

    assert said in error_of(tmp_path / "list.csv")


def test_list__picture_or_utf_16_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("a.png\n".encode("utf-16"))

    assert "save it as UTF-8" in error_of(tmp_path / "list.txt")
