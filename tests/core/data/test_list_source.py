import os
import unicodedata
from pathlib import Path

import pytest

from deepcluster_core.data.sources import open_source
from deepcluster_core.errors import SourceError
from tests.support.sources import error_of, images, labels_of, paths, put, reason


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
    gone = f"No such file or directory: line 2, looked for {tmp_path}/gone.png"
    assert reason(by_path["gone.png"]) == gone
    assert reason(by_path["."]) == f"line 3 names a folder, not a file: {tmp_path}"
    assert "not a file name" in reason(by_path["no\0name"])
    assert open_source(lists).fingerprint()


def test_list__duplicates_are_named_before_the_first_image(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("z.png\na.png\nb.png\n\n./z.png\nz.png\n")

    with pytest.raises(SourceError, match=r"lines 1 and 5 both name 'z.png'"):
        next(open_source(tmp_path / "list.txt").images())


def test_list__is_sorted_by_the_bytes_of_its_paths(tmp_path: Path) -> None:
    lists = tmp_path / "list.csv"
    rows = [b"path,label", b"\xc3\xbc,", b'"\xff\n",odd', *(b"%d,l%d" % (i, i) for i in range(11))]
    lists.write_bytes(b"\n".join(rows))

    found = [(image.path, image.label) for image in images(lists)]

    assert [path for path, _ in found[:4]] == ["0", "1", "10", "2"]
    assert found[-2:] == [("ü", None), ("\\xff\n", "odd")]
    assert len(found) == 13


def test_list__half_read_list_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join("edcba"))
    found = open_source(tmp_path / "list.txt").images()

    assert next(found).path == "a"
    del found  # a database left open would be a ResourceWarning, and so an error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.png,1\n", "needs a column named path in its first line, has ['file'"),
        ("", "needs a column named path"),
        ("path,label\na, b.png,1\n", "line 2 has 3 columns, but the header has 2"),
        ("path,label\na.png,1\n,2\n", "line 3 has no path"),
        ('path,label\n"a.png,1\n', "unexpected end of data"),
    ],
)
def test_list__bad_tables_say_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.csv").write_text(text)

    assert said in error_of(tmp_path / "list.csv")


@pytest.mark.parametrize("data", ["a.png\n".encode("utf-16-le"), b"\x89PNG\r\n\0\0"])
def test_list__picture_or_utf_16_without_a_mark_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(data)

    assert "save it as UTF-8" in error_of(tmp_path / "list.txt")


def test_list__utf_16_that_is_cut_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("a.png\n".encode("utf-16")[:-1])

    assert "has a byte order mark of UTF-16, but is not UTF-16" in error_of(tmp_path / "list.txt")


# As other programs and machines write them


def read_all(lists: Path) -> list[tuple[bytes, str | None]]:
    return [(image.read(), image.label) for image in images(lists)]


NAMES = ["data/a 1.png", "data/b.png", "data/c, d.png"]


@pytest.mark.parametrize(
    "line",
    ["{} {}", "{}   {}", "{}\t{}", "{},{}", "{};{}", "7\t{1}\t{0}", '"{}",{}', "'{}' {}"],
)
def test_list__labels_behind_paths(tmp_path: Path, line: str) -> None:
    put(tmp_path, *NAMES)
    lists = tmp_path / "list.txt"
    lists.write_text("".join(line.format(name, n) + "\n" for n, name in enumerate(NAMES)))

    assert read_all(lists) == [(name.encode(), str(n)) for n, name in enumerate(NAMES)]
    assert labels_of(lists, labels="none") == [None] * 3


def test_list__blanks_in_names_are_not_taken_for_labels(tmp_path: Path) -> None:
    put(tmp_path, "a 1", "a 2", "a")
    (tmp_path / "list.txt").write_text("a 1\na 2\n")

    assert read_all(tmp_path / "list.txt") == [(b"a 1", None), (b"a 2", None)]


def test_list__a_line_without_a_label_among_labelled_ones(tmp_path: Path) -> None:
    put(tmp_path, *NAMES)
    (tmp_path / "list.txt").write_text(f"{NAMES[0]}\n{NAMES[1]} cat\n{NAMES[2]} dog\n")

    assert labels_of(tmp_path / "list.txt") == [None, "cat", "dog"]


@pytest.mark.parametrize("label", ["nan", "NaN", "", "NULL", "<NA>"])
def test_list__a_missing_label_is_none(tmp_path: Path, label: str) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text(f"path,label\na.png,{label}\nb.png,none\n")

    assert labels_of(tmp_path / "list.csv") == [None, "none"]


DECOMPOSED = unicodedata.normalize("NFD", "é")


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        (b"~/a.png", "home/a.png"),
        (b"FILE", "data/a b.png"),
        (b"data\\a.png", "data/a.png"),
        (b'"data/a.png"', "data/a.png"),
        (b" data/a.png", "data/a.png"),
        ("\u00e9/\u00e9.png".encode(), f"{DECOMPOSED}/{DECOMPOSED}.png"),
        (f"{DECOMPOSED}/\u00e9.png".encode(), f"\u00e9/{DECOMPOSED}.png"),
        ("Größe.png".encode("cp1252"), "Größe.png"),
        ("data\\Größe.png".encode("cp1252"), unicodedata.normalize("NFD", "data/Größe.png")),
    ],
)
def test_list__other_spellings_of_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bytes, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    put(tmp_path, name, "other.png")
    url = (tmp_path / name).as_uri().encode()
    (tmp_path / "list.txt").write_bytes(listed.replace(b"FILE", url) + b"\nother.png\n")

    (found,) = (image for image in images(tmp_path / "list.txt") if image.path != "other.png")

    assert found.read() == name.encode()
    assert (tmp_path / found.path).exists(), "its path names the file, for encoding: none"


@pytest.mark.parametrize("name", ["~a.png", "a\\b.png", '"a.png"', " a.png", "#a.png", "\xff.png"])
def test_list__a_file_of_exactly_this_name_comes_first(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, "a.png", "a/b.png")
    (tmp_path / "list.txt").write_bytes(os.fsencode(name) + b"\n")

    assert images(tmp_path / "list.txt")[0].read() == os.fsencode(name)


def test_list__comments_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "list.txt").write_text("# training, 2024\na.png\n")
    (tmp_path / "list.csv").write_text("# training, 2024\n\npath,label\na.png,1\n")

    assert paths(tmp_path / "list.txt") == paths(tmp_path / "list.csv") == ["a.png"]
    assert open_source(tmp_path / "list.txt").count() == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("semicolon.csv", b"\xef\xbb\xbfpath;label\r\na.png;x\r\n"),
        ("separator.csv", b"sep=|\r\nlabel|path\r\nx|a.png\r\n"),
        ("capitals.csv", b"Path,Label\na.png,x\n"),
        ("carriage.csv", b"path,label\ra.png,x\r"),
        ("columns.txt", b"path\tlabel\na.png\tx\n"),
        ("excel.txt", "path\tlabel\r\na.png\tx\r\n".encode("utf-16")),
        ("mxnet.lst", b"0\tx\ta.png\n"),
    ],
)
def test_list__tables_as_programs_save_them(tmp_path: Path, name: str, data: bytes) -> None:
    put(tmp_path, "a.png")
    (tmp_path / name).write_bytes(data)

    assert read_all(tmp_path / name) == [(b"a.png", "x")]


def test_list__lines_that_end_as_on_old_macs(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "list.txt").write_bytes(b"a.png\rb.png\r")

    assert paths(tmp_path / "list.txt") == ["a.png", "b.png"]


def test_list__paths_from_a_folder_above(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "data/a.png", "data/b.png", "lists/data/c.png")
    lists = tmp_path / "lists/list.txt"
    lists.write_text("data/a.png\ndata/b.png\ndata/c.png\n")

    found = {image.path: image for image in images(lists)}

    assert found["data/a.png"].read() == b"data/a.png"
    assert reason(found["data/c.png"]).endswith(f"{tmp_path}/data/c.png"), "bases are never mixed"
    assert f"{lists}: its paths are read relative to {tmp_path}, not to its own" in caplog.text
    assert open_source(lists).originals == tmp_path


def test_list__the_working_folder_is_only_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "here", "a.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/list.txt").write_text("a.png\n")
    monkeypatch.chdir(tmp_path / "here")

    (image,) = images(tmp_path / "lists/list.txt")

    assert f"looked for {tmp_path}/lists/a.png; it is in the working folder" in reason(image)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("https://host/a.png", "line 2 is the address of a remote place, which is not supported"),
        ("C:\\pics\\a.png", "it looks like a path on Windows"),
        ("$HOME/a.png", "variables such as $HOME are expanded by the shell alone"),
        ("~nobody-of-this-name/a.png", "~ means a home folder only at the beginning"),
    ],
)
def test_list__what_cannot_be_meant_is_named(tmp_path: Path, line: str, said: str) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "list.txt").write_text(f"a.png\n{line}\nb.png\n")

    (image,) = (
        each for each in images(tmp_path / "list.txt") if each.path not in ("a.png", "b.png")
    )

    assert said in reason(image)


def test_list__missing_file_of_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "list.txt").write_text("~/gone.png\n")

    (image,) = images(tmp_path / "list.txt")

    assert f"line 1, looked for {tmp_path}/home/gone.png" in reason(image)


def test_fingerprint__of_a_plain_list_is_that_of_earlier_versions(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    os.utime(tmp_path / "a.png", ns=(0, 10**18))
    (tmp_path / "list.csv").write_text("path,label\n./a.png,1\ngone.png,\n")

    # Computed with the code of d50a806.
    expected = "b95407acced51f4f2ba54bb13d66edc8ec4e34b5f68af1a2fd770f866998d0ac"

    assert open_source(tmp_path / "list.csv").fingerprint() == expected
