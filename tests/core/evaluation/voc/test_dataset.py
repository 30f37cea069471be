"""Pascal VOC: layouts, lists, annotations of every encoding, and what is told of bad ones."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.dataset import ABSENT, DIFFICULT, PRESENT, Voc, VocObject
from tests.support.voc_tree import CLASSES, annotation, mark_of, write_voc

SIZES = {"train": 4, "val": 4, "test": 4}
BODY = (
    "<annotation><owner><name>Zo\u00eb M\u00fcller</name></owner><object><name>disc</name>"
    "<part><name>edge</name><bndbox><xmin>1</xmin></bndbox></part>"
    "<difficult>1</difficult><bndbox><xmax>20</xmax><xmin>3</xmin><ymin>4.5</ymin><ymax>9</ymax>"
    "</bndbox></object></annotation>"
)
DISC = VocObject("disc", (2.0, 3.5, 20.0, 9.0), difficult=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return VOCdevkit/VOC2007 of twelve pictures."""
    write_voc(tmp_path, sizes=SIZES)
    return tmp_path / "VOCdevkit" / "VOC2007"


def lists(tree: Path) -> Path:
    return tree / "ImageSets" / "Main"


@pytest.mark.parametrize("above", [0, 1, 2], ids=["VOC2007", "VOCdevkit", "what holds it"])
def test_voc__finds_the_year_in_every_layout(tree: Path, above: int) -> None:
    data = (tree, *tree.parents)[above]
    assert Voc(data).place == str(tree)
    assert Voc(data).classes("trainval", "test") == CLASSES


def test_voc__finds_the_year_below_trainval(tree: Path, tmp_path: Path) -> None:
    moved = tmp_path / "TrainVal" / "VOCdevkit"
    moved.parent.mkdir()
    tree.parent.rename(moved)
    assert Voc(tmp_path).place == str(moved / "VOC2007")


def test_marks__are_those_of_the_drawn_objects(tmp_path: Path) -> None:
    drawn = write_voc(tmp_path, sizes={"train": 40, "test": 40})

    marks = Voc(tmp_path).marks("test", CLASSES)

    assert marks.names == tuple(sorted(drawn))[40:]
    expected = [[mark_of(name, drawn[picture]) for name in CLASSES] for picture in marks.names]
    assert marks.mark_NC.tolist() == expected
    assert {PRESENT, DIFFICULT, ABSENT} == set(np.unique(marks.mark_NC))


def test_marks__are_joined_by_name_not_by_line(tree: Path) -> None:
    before = Voc(tree).marks("train", CLASSES)
    path = lists(tree) / "disc_train.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))

    after = Voc(tree).marks("train", CLASSES)

    assert after.names == before.names
    assert np.array_equal(after.mark_NC, before.mark_NC)


def test_classes__come_from_the_lists(tree: Path) -> None:
    for subset in ("train", "val"):
        shutil.copy(lists(tree) / f"disc_{subset}.txt", lists(tree) / f"dining_table_{subset}.txt")
        (lists(tree) / f"._disc_{subset}.txt").write_bytes(b"\0")  # as a Mac leaves them
    assert Voc(tree).classes("train", "val") == ("bar", "cross", "dining_table", "disc", "square")


def test_objects__have_boxes_from_zero_and_difficult_flags(tmp_path: Path) -> None:
    drawn = write_voc(tmp_path, sizes={"train": 30})
    voc = Voc(tmp_path)
    for name, objects in drawn.items():
        found = [(o.name, o.box, o.difficult) for o in voc.objects(name)]
        assert found == [(o.name, tuple(map(float, o.box)), o.difficult) for o in objects]


@pytest.mark.parametrize(
    "data",
    [
        BODY.encode(),
        BODY.encode("latin-1"),
        b"\xef\xbb\xbf" + BODY.encode(),
        BODY.encode("utf-16"),
        b'<?xml version="1.0" encoding="utf-8"?>' + BODY.encode("latin-1"),
        b'<?xml version="1.0" encoding="ISO-8859-1"?>' + BODY.encode("latin-1"),
        b"<?xml version='1.0' encoding='utf-16'?>" + BODY.encode(),
        b'<?xml version="1.0" encoding="nobody-knows"?>' + BODY.encode(),
        b'\n <?xml version="1.0"?>' + BODY.encode(),
        b'<?xml version="1.0" encoding="gb2312"?>' + BODY.encode(),
    ],
    ids=[
        "UTF-8",
        "undeclared Latin-1",
        "UTF-8 with a mark",
        "UTF-16",
        "Latin-1 declared as UTF-8",
        "Latin-1",
        "UTF-8 declared as UTF-16",
        "an unknown encoding",
        "blank lines first",
        "UTF-8 declared as GB2312",
    ],
)
def test_objects__are_read_from_every_encoding(tree: Path, data: bytes) -> None:
    (tree / "Annotations" / "000000.xml").write_bytes(data)
    assert Voc(tree).objects("000000") == (DISC,)


def _entities(text: str) -> str:
    return '<!DOCTYPE a [<!ENTITY b "bbbb">]>' + text


BAD_ANNOTATIONS: dict[str, tuple[Callable[[str], str], str]] = {
    "cut off": (lambda text: text[:-9], "cannot be read"),
    "entities": (_entities, "defines a document type"),
    "no name": (lambda text: text.replace("<name>disc</name>", ""), "an object has no name"),
    "no box": (lambda text: text.replace("xmax", "x"), "the disc has no box of four numbers"),
    "a word": (lambda text: text.replace("20", "wide"), "the disc has no box of four numbers"),
    "turned round": (lambda text: text.replace("20", "2"), "the disc has an impossible box"),
    "not a number": (lambda text: text.replace("20", "nan"), "the disc has an impossible box"),
    "infinite": (lambda text: text.replace("20", "inf"), "the disc has an impossible box"),
}


@pytest.mark.parametrize(
    ("damage", "message"), BAD_ANNOTATIONS.values(), ids=BAD_ANNOTATIONS.keys()
)
def test_objects__bad_annotations_are_told(
    tree: Path, damage: Callable[[str], str], message: str
) -> None:
    (tree / "Annotations" / "000000.xml").write_text(damage(BODY))
    with pytest.raises(SourceError, match=rf"000000\.xml: .*{message}"):
        Voc(tree).objects("000000")


def test_objects__missing_annotation_is_told(tree: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        Voc(tree).objects("999999")


def test_picture__has_its_own_size_and_the_channels_asked_for(tree: Path) -> None:
    voc = Voc(tree)
    assert voc.picture("000003", channels=3).shape == (60, 80, 3)
    assert voc.picture("000003", channels=1).shape == (60, 80, 1)
    path = tree / "JPEGImages" / "000003.jpg"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SourceError, match=r"000003\.jpg: .*truncated.*\n.*robots\.ox\.ac\.uk"):
        voc.picture("000003", channels=3)


def read_all(data: Path) -> None:
    voc = Voc(data)
    voc.fingerprint(("trainval", "test"), voc.classes("trainval", "test"))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


BAD_TREES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (
        lambda tree: shutil.rmtree(tree.parent),
        r"Found: +nothing\n.*put VOCtrainval_06-Nov-2007\.tar and VOCtest_06-Nov-2007\.tar into",
    ),
    "other things": (
        lambda tree: tree.parent.rename(tree.parents[1] / "pictures"),
        r"Looked for: VOCdevkit/VOC2007/ImageSets.*\n +Found: +pictures\n",
    ),
    "another year": (
        lambda tree: tree.rename(tree.parent / "VOC2012"),
        r"holds no Pascal VOC 2007",
    ),
    "no test lists": (
        lambda tree: [path.unlink() for path in lists(tree).glob("*_test.txt")],
        r"no class has a list <class>_test\.txt .*\n.*VOCtest_06-Nov-2007\.tar of test",
    ),
    "a class without a list": (
        lambda tree: (lists(tree) / "disc_test.txt").unlink(),
        r"trainval and test have lists of different classes: disc",
    ),
    "an odd mark": (
        lambda tree: append(lists(tree) / "disc_test.txt", "000099 2\n"),
        r"disc_test\.txt, line 5: '000099 2' must be",
    ),
    "a name twice": (
        lambda tree: append(lists(tree) / "disc_test.txt", "000008 1\n"),
        r"disc_test\.txt, line 5",
    ),
    "a way out of the folder": (
        lambda tree: append(lists(tree) / "disc_test.txt", "../../x 1\n"),
        r"disc_test\.txt, line 5",
    ),
    "lists of other images": (
        lambda tree: append(lists(tree) / "disc_test.txt", "000099 1\n"),
        r"disc_test\.txt: lists different images than bar_test\.txt: 000099",
    ),
    "no picture": (
        lambda tree: (tree / "JPEGImages" / "000009.jpg").unlink(),
        r"1 pictures of the lists are missing: 000009\.jpg",
    ),
    "a list of bytes": (
        lambda tree: (lists(tree) / "disc_test.txt").write_bytes(b"\xff\xfe\x00"),
        r"disc_test\.txt: the list cannot be read",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BAD_TREES.values(), ids=BAD_TREES.keys())
def test_voc__bad_trees_are_told(
    tree: Path, damage: Callable[[Path], object], message: str
) -> None:
    data = tree.parents[1]
    damage(tree)
    with pytest.raises(SourceError, match=message):
        read_all(data)


def test_voc__what_is_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Found: +no such folder"):
        Voc(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match=r"Found: +a file of a kind that is not read"):
        Voc(tmp_path / "pipe")


def test_fingerprint__follows_lists_and_pictures_but_not_the_place(
    tree: Path, tmp_path: Path
) -> None:
    def fingerprint(data: Path) -> str:
        return Voc(data).fingerprint(("train", "val"), CLASSES)

    moved = shutil.copytree(tree, tmp_path / "moved" / "VOC2007")
    first = fingerprint(tree)
    assert fingerprint(moved) == first

    test_only = moved / "JPEGImages" / "000011.jpg"
    test_only.write_bytes(b"other")
    assert fingerprint(moved) == first, "no picture of these subsets"
    (moved / "JPEGImages" / "000001.jpg").write_bytes(b"other")
    assert fingerprint(moved) != first
    path = lists(tree) / "disc_val.txt"
    flipped = path.read_text().replace("-1", "#", 1).replace(" 1", "-1", 1).replace("#", " 1", 1)
    path.write_text(flipped)
    assert fingerprint(tree) != first


def test_annotation__of_the_drawn_tree_has_vocs_elements(tmp_path: Path) -> None:
    drawn = write_voc(tmp_path, sizes={"train": 1})
    text = annotation("000000", drawn["000000"])
    for element in ("<annotation>", "<object>", "<bndbox>", "<xmin>", "<difficult>"):
        assert element in text
