"""Layouts of landmark data sets. Names are all that is read of images: here they are empty."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deepcluster_core.config_yaml import parse
from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.retrieval.landmarks import (
    CORRUPT,
    GROUND_TRUTH,
    Landmarks,
    list_photographs,
    open_landmarks,
)


def opened(root: Path) -> Landmarks:
    return open_landmarks(root, parse)


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def ground_truth(folder: Path, name: str = "all_souls_1", **texts: str) -> None:
    """Write the four files of a query, of which any may be replaced."""
    usual = {
        "query": "oxc1_all_souls_000013 136.5 34.1 648.5 955.7\n",
        "good": "all_souls_000013\nall_souls_000026\n",
        "ok": "oxford_002985\r\n\r\n",
        "junk": "all_souls_000002\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in (usual | texts).items():
        (folder / f"{name}_{kind}.txt").write_text(text)


OXFORD = (
    "all_souls_000002",
    "all_souls_000013",
    "all_souls_000026",
    "oxford_002985",
    "radcliffe_1",
)


def oxford(root: Path, images: str = "jpg", texts: str = "gt_files") -> Path:
    put(root, *(os.path.join(images, f"{name}.jpg") for name in OXFORD))  # noqa: PTH118  as names
    ground_truth(root / texts)
    return root


@pytest.mark.parametrize("images", ["jpg", "", "paris/all_souls"])
@pytest.mark.parametrize("texts", ["gt_files", "", "lab"])
def test_open_landmarks__as_shipped_and_unpacked_anywhere(
    images: str, texts: str, tmp_path: Path
) -> None:
    landmarks = opened(oxford(tmp_path, images, texts))

    assert [Path(name).stem for name in landmarks.images] == list(OXFORD)
    (query,) = landmarks.queries
    assert (query.name, query.image) == ("all_souls_1", 1)
    assert query.box == (136.5, 34.1, 648.5, 955.7)
    assert query.positive == {1, 2, 3}, "good and ok"
    assert query.junk == {0}
    assert len(landmarks.files) == 4


def test_open_landmarks__corrupt_images_of_paris_are_not_there(tmp_path: Path) -> None:
    assert len(CORRUPT) == 20
    whole = ("paris/louvre/paris_louvre_000001.jpg", "paris/louvre/paris_louvre_000002.jpg")
    put(tmp_path, *whole, "paris/louvre/paris_louvre_000136.jpg")
    listed = "paris_louvre_000001\nparis_louvre_000136\nparis_louvre_000146\n"
    ground_truth(
        tmp_path,
        "louvre_1",
        query="paris_louvre_000001 1 2 3 4",
        good=listed,
        ok="",
        junk="paris_louvre_000002",
    )

    landmarks = opened(tmp_path)

    assert landmarks.images == whole
    assert landmarks.queries[0].positive == {0}
    assert landmarks.queries[0].junk == {1}


def test_open_landmarks__a_list_for_any_folder(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png", "b/ 2.jpg", "c.webp")
    queries = [
        {"query": "a/1.png", "box": [1, 2.5, 3, 4], "good": ["b/1.png"], "ok": ["b/ 2.jpg"]},
        {"query": "c.webp", "good": ["c.webp", "a/1.png"], "junk": ["b/1.png"]},
    ]
    (tmp_path / GROUND_TRUTH).write_text(yaml.safe_dump(queries))

    landmarks = opened(tmp_path)

    assert landmarks.images == ("a/1.png", "b/ 2.jpg", "b/1.png", "c.webp")
    first, second = landmarks.queries
    assert (first.image, first.box, first.positive) == (0, (1, 2.5, 3, 4), {1, 2})
    assert first.junk == {0}, "its own image, which is not listed"
    assert (second.box, second.positive, second.junk) == (None, {0, 3}, {2})


def test_open_landmarks__names_that_hurt(tmp_path: Path) -> None:
    names = ["a b.jpg", "ünï.jpg", "x'\";$(rm).jpg", "two\nlines.jpg", "-rf.jpg", "many.dots.jpg"]
    put(tmp_path, *names)
    (tmp_path / os.fsdecode(b"bytes-\xff.jpg")).touch()
    queries = [{"query": "bytes-\\xff.jpg", "good": names}]
    (tmp_path / GROUND_TRUTH).write_text(yaml.safe_dump(queries))

    landmarks = opened(tmp_path)

    own = landmarks.queries[0].image
    assert os.fsencode(landmarks.images[own]) == b"bytes-\xff.jpg"
    assert landmarks.queries[0].positive == set(range(7)) - {own}


def test_open_landmarks__a_query_whose_name_has_blanks(tmp_path: Path) -> None:
    put(tmp_path, "my house.01.jpg")
    ground_truth(tmp_path, query="my house.01 0 0 9 9\n", good="my house.01\n", ok="", junk="")

    assert opened(tmp_path).queries[0].positive == {0}


def query_is(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "gt_files/all_souls_1_query.txt").write_text(text)


def list_is(text: str) -> Callable[[Path], object]:
    return lambda root: (root / GROUND_TRUTH).write_text(text)


def without_texts(then: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        for path in (root / "gt_files").iterdir():
            path.unlink()
        then(root)

    return change


def without_images(root: Path) -> None:
    for path in (root / "jpg").iterdir():
        path.unlink()


def packed(root: Path) -> None:
    without_images(root)
    (root / "oxbuild_images.tgz").touch()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no images": (without_images, r"(?s)no images in this folder.*jpg/\*.jpg.*robots.ox.ac.uk"),
    "packed images": (
        packed,
        r"Fix: unpack the archive .*: tar -xf .*oxbuild_images.tgz -C ",
    ),
    "no ground truth": (
        without_texts(lambda _: None),
        r"(?s)no ground truth that.*<query>_query.txt",
    ),
    "two ground truths": (lambda root: ground_truth(root / "lab"), "more than one ground truth"),
    "an image is missing": (
        lambda root: (root / "jpg/oxford_002985.jpg").unlink(),
        r"all_souls_1_ok.txt: 1 of the 1 images that it names are not below .*'oxford_002985'",
    ),
    "an image is there twice": (
        lambda root: put(root, "more/all_souls_000026.jpg"),
        r"names 'all_souls_000026', and there are several",
    ),
    "a list is missing": (
        lambda root: (root / "gt_files/all_souls_1_junk.txt").unlink(),
        r"all_souls_1_junk.txt: .*cannot be read \(No such file",
    ),
    "no box": (query_is("oxc1_all_souls_000013\n"), "must hold one line, a name and the four"),
    "no numbers": (query_is("oxc1_all_souls_000013 a b c d"), "must hold one line"),
    "two lines": (query_is("a 1 2 3 4\nb 1 2 3 4\n"), "begins with 'a 1 2 3 4 b 1"),
    "empty": (query_is(" \n"), "must hold one line"),
    "box inside out": (
        query_is("all_souls_000013 9 9 1 1"),
        r"9.0, 1.0, 1.0\) is not a box",
    ),
    "box of nan": (query_is("all_souls_000013 nan 9 1 1"), "is not a box"),
    "nothing to find": (
        lambda root: ground_truth(root / "gt_files", good="", ok=""),
        "no image is good or ok",
    ),
    "good and junk": (
        lambda root: ground_truth(root / "gt_files", junk="all_souls_000013"),
        "both as good or ok and as junk",
    ),
    "no YAML": (without_texts(list_is("[")), "cannot be read as YAML"),
    "empty YAML": (without_texts(list_is("")), r"1 problem\(s\), the first at the top"),
    "no queries": (without_texts(list_is("[]")), "at least 1"),
    "unknown key": (
        without_texts(list_is("[{query: a, good: [a], bad: [b]}]")),
        "the first at 0.bad: Extra inputs",
    ),
    "short box": (
        without_texts(list_is("[{query: a, good: [a], box: [1, 2, 3]}]")),
        "the first at 0.box.3: Field required",
    ),
    "no such image": (
        without_texts(list_is("[{query: ../jpg/radcliffe_1.jpg, good: [jpg/radcliffe_1.jpg]}]")),
        r"query 1: 1 of the 1 images .* '../jpg/radcliffe_1.jpg'",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_open_landmarks__refuses(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    change(oxford(tmp_path))

    with pytest.raises(SourceError, match=message):
        opened(tmp_path)


def test_open_landmarks__refuses_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"folder does not exist.*\n.*robots.ox.ac.uk/~vgg/data"):
        opened(tmp_path / "absent")
    with pytest.raises(SourceError, match="folder does not exist"):
        list_photographs(put(tmp_path, "file.jpg") / "file.jpg")


def test_fingerprint__follows_images_and_ground_truth(tmp_path: Path) -> None:
    def changed(change: Callable[[], object]) -> bool:
        before = opened(root).fingerprint()
        change()
        return opened(root).fingerprint() != before

    root = oxford(tmp_path / "oxford")

    assert not changed(lambda: None)
    assert not changed(lambda: put(root, "readme.md"))
    assert changed(lambda: ground_truth(root / "gt_files", ok="oxford_002985\nradcliffe_1\n"))
    assert changed(lambda: put(root, "jpg/street.jpg"))
    assert changed(lambda: (root / "jpg/street.jpg").write_bytes(b"pixels"))
