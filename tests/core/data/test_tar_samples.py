"""Samples in tar shards: which member is the picture, which the label, and what is reported."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from deepcluster_core.data.sources import open_source, tar_listing
from deepcluster_core.data.sources.samples import are_labels, split_name
from deepcluster_core.errors import ConfigError, SourceError

Members = Iterable[tuple[str, bytes]]


def tar_of(path: Path, members: Members) -> Path:
    """Write a tar file; names may come twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def listed(
    location: Path, image_key: list[str] | None = None
) -> tuple[list[tuple[str, str | None]], str]:
    """Return path and label of each image, and the notes."""
    source = open_source(location, image_key=image_key)
    found = [(image.path.partition("/")[2], image.label) for image in source.images()]
    return found, "\n".join(source.notes())


def refused(location: Path, image_key: list[str] | None = None) -> str:
    with pytest.raises((SourceError, ConfigError)) as error:
        listed(location, image_key)
    return str(error.value)


def samples(num: int, **members: bytes) -> Members:
    """Return samples with these extensions; `__` stands for a dot and %d for the class."""
    for n in range(num):
        for extension, data in members.items():
            yield f"s{n:02}.{extension.replace('__', '.')}", data.replace(b"%d", b"%d" % (n % 4))


CLASSES = [str(n % 4) for n in range(12)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", ("a", "jpg")),
        ("v1.0/p1.Seg.PNG", ("v1.0/p1", "seg.png")),
        ("a.b/c", ("a.b/c", "")),
        ("x.", ("x", "")),
    ],
)
def test_split_name__ends_the_key_at_the_first_dot(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name) == expected


def test_tar__several_views_of_a_sample_keep_its_label_and_are_reported(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar", samples(12, left__jpg=b"", right__jpg=b"", cls=b"%d"))

    found, notes = listed(file)

    assert [label for _, label in found] == [c for c in CLASSES for _ in range(2)]
    assert "12 left.jpg, 12 right.jpg" in notes
    assert "dataset.image_key: left.jpg takes only one" in notes


@pytest.mark.parametrize("key", ["left.jpg", ".LEFT.jpg"])
def test_tar__image_key_chooses_a_view(tmp_path: Path, key: str) -> None:
    file = tar_of(tmp_path / "x.tar", samples(12, left__jpg=b"", right__jpg=b"", cls=b"%d"))

    found, notes = listed(file, [key])

    assert found == [(f"s{n:02}.left.jpg", CLASSES[n]) for n in range(12)]
    assert notes == "left out: 12 right.jpg"


@pytest.mark.parametrize(
    "mask", ["seg.png", "mask.png", "depth_map.png", "right.mask.png", "npy", "heic"]
)
def test_tar__masks_and_arrays_beside_a_picture_are_left_out(tmp_path: Path, mask: str) -> None:
    members = samples(12, **{"jpg": b"", mask: b"", "cls": b"%d"})

    found, notes = listed(tar_of(tmp_path / "x.tar", members))

    assert found == [(f"s{n:02}.jpg", CLASSES[n]) for n in range(12)]
    assert notes == f"left out: 12 {mask}"


def test_tar__the_main_picture_is_known_by_its_name(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar", samples(2, image__png=b"", overlay__png=b""))

    assert [name for name, _ in listed(file)[0]] == ["s00.image.png", "s01.image.png"]


def test_tar__two_plain_pictures_need_a_choice(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar", samples(3, jpg=b"", png=b"", cls=b"%d"))

    text = refused(file)

    assert "Found: 3 jpg, 3 png" in text
    assert "dataset.image_key: [jpg, png]" in text
    assert len(listed(file, ["jpg", "png"])[0]) == 6
    assert len(listed(file, ["png"])[0]) == 3


def test_tar__nothing_but_masks_is_refused_with_their_extension(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar", samples(3, seg__png=b""))

    assert "dataset.image_key: seg.png" in refused(file)
    assert len(listed(file, ["seg.png"])[0]) == 3
    assert "dataset.image_key is jpg" in refused(file, ["jpg"])


def test_tar__names_with_numbers_behind_dots_are_all_images(tmp_path: Path) -> None:
    names = ["cat.jpg", "cat.0.jpg", "cat.1.jpg", "IMG_2024.01.02.jpg", "IMG_2024.01.03.jpg"]
    members = [(name, b"") for name in names] + [("cat.0.cls", b"7")]

    found, _ = listed(tar_of(tmp_path / "x.tar", members))

    assert [name for name, _ in found] == names
    assert dict(found)["cat.0.jpg"] == "7"
    assert dict(found)["cat.1.jpg"] is None


@pytest.mark.parametrize(
    "member",
    [
        {"cls": b"%d\n"},
        {"CLS": b"%d"},
        {"cls__txt": b"%d"},
        {"class": b"%d"},
        {"class_id": b"%d"},
        {"label": b"%d"},
        {"json": b'{"label": %d}'},
        {"json": b'{"Label": "%d"}'},
        {"json": b'{"category": {"name": "%d", "color": 1}}'},
        {"json": b'{"size": [1, 2], "meta": {"class_id": %d.0}}'},
        {"json": b'{"labels": [%d]}'},
        {"json": b"%d"},
        {"txt": b"%d"},
        {"json": b'{"caption": "a"}', "txt": b"%d"},
    ],
    ids=str,
)
def test_tar__labels_of_every_kind(tmp_path: Path, member: dict[str, bytes]) -> None:
    before = tar_of(tmp_path / "a/0.tar", samples(12, **member, jpg=b""))
    behind = tar_of(tmp_path / "b/0.tar", samples(12, jpg=b"", **member))

    assert [label for _, label in listed(before)[0]] == CLASSES
    assert [label for _, label in listed(behind)[0]] == CLASSES
    assert {image.label for image in open_source(before, labels="none").images()} == {None}


@pytest.mark.parametrize(
    ("member", "note"),
    [
        ({"txt": b"a caption for %d"}, "left out: 2 txt\nno labels from txt members"),
        ({"json": b'{"caption": "a"}'}, "left out: 2 json"),
        ({"json": b'{"label": [1, 2]}'}, "left out: 2 json"),
        ({"json": b"{'label': 1}"}, "left out: 2 json"),
        ({"json": b"[" * 5000}, "left out: 2 json"),
        ({"cls": b" \n"}, "members without a usable label: 2, for example x.tar/s00.cls"),
        ({"cls": b"NaN"}, "members without a usable label: 2"),
        ({"cls": b"7" * 5000}, "members without a usable label: 2"),
    ],
    ids=str,
)
def test_tar__what_is_no_label_is_reported(
    tmp_path: Path, member: dict[str, bytes], note: str
) -> None:
    found, notes = listed(tar_of(tmp_path / "x.tar", samples(2, jpg=b"", **member)))

    assert [label for _, label in found] == [None, None]
    assert note in notes


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0", "1", "2", "3"], True),
        ([str(n) for n in range(100)], False),
        (["cat", "dog"] * 3, True),
        (["a cat", "a dog", "a cow"], False),
        (["a caption"] * 9, False),
        (["x" * 65, "y" * 65] * 9, False),
        (["cat\ndog", "cow"] * 9, False),
    ],
)
def test_are_labels__classes_come_again_and_captions_do_not(
    texts: list[str], expected: bool
) -> None:
    assert are_labels(texts) is expected


def test_tar__members_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    pictures = [(f"{n}.jpg", b"") for n in range(4)]
    labels = [(f"{n}.cls", b"%d" % n) for n in range(4)]
    file = tar_of(tmp_path / "x.tar", [*pictures[:2], *labels, *pictures[2:]])

    assert listed(file)[0] == [(f"{n}.jpg", str(n)) for n in range(4)]


@pytest.mark.parametrize("labels_first", [True, False])
def test_tar__in_a_large_shard_members_that_lie_apart_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels_first: bool
) -> None:
    monkeypatch.setattr(tar_listing, "LISTED_AT_ONCE", 5)
    pictures = [(f"{n}.jpg", b"") for n in range(4)]
    labels = [(f"{n}.cls", b"%d" % n) for n in range(4)]
    apart = labels + pictures if labels_first else pictures + labels
    beside = [member for pair in zip(pictures, labels, strict=True) for member in pair]

    text = refused(tar_of(tmp_path / "x.tar", apart))
    assert "are not adjacent, for example those of '0'" in text
    assert "tar --sort=name" in text
    expected = [(f"{n}.jpg", str(n)) for n in range(4)]
    assert listed(tar_of(tmp_path / "y.tar", beside))[0] == expected


@pytest.mark.parametrize("at_once", [50_000, 3])
def test_tar__a_name_that_comes_again_is_another_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(tar_listing, "LISTED_AT_ONCE", at_once)
    sample = [("p.jpg", b"1"), ("p.cls", b"1"), ("q.jpg", b"2"), ("q.cls", b"2")]
    again = [("p.jpg", b"3"), ("p.cls", b"3")]
    file = tar_of(tmp_path / "x.tar", [*sample, *again])

    found, notes = listed(file)

    assert found == [("p.jpg", "1"), ("q.jpg", "2"), ("p.jpg#2", "3")]
    assert notes == (
        "names that occur again in the same tar file: 1, for example x.tar/p.jpg; the later ones "
        "are listed as …#2"
    )
    assert [image.read() for image in open_source(file).images()] == [b"1", b"2", b"3"]


def test_tar__samples_without_a_picture_are_counted(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar", [("a.jpg", b""), ("a.cls", b"1"), ("b.cls", b"2")])

    assert listed(file) == ([("a.jpg", "1")], "left out: 1 cls\nsamples without a picture: 1")


def test_tar__labels_that_are_numbers_in_one_shard_only_are_refused(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", samples(4, jpg=b"", cls=b"%d"))
    tar_of(tmp_path / "1.tar", samples(4, jpg=b"", cls=b"class %d"))

    text = refused(tmp_path)

    assert "labels are numbers in 0.tar but names in 1.tar" in text
    assert "dataset.labels: none" in text


# A tar file for each class


def class_members(name: str) -> Members:
    return [(f"{name}_{n}.JPEG", name.encode()) for n in range(3)]


def test_tar__imagenet_has_a_tar_file_for_each_class(tmp_path: Path) -> None:
    names = ["n01440764", "n01443537"]
    for name in names:
        tar_of(tmp_path / f"{name}.tar", class_members(name))

    found, notes = listed(tmp_path)

    assert [label for _, label in found] == [name for name in names for _ in range(3)]
    assert "labels are the names of the tar files" in notes
    assert listed(tmp_path / "n01440764.tar")[0][0] == ("n01440764_0.JPEG", "n01440764")


def test_tar__imagenet_as_it_is_shipped_is_a_tar_of_tars(tmp_path: Path) -> None:
    names = ["n01440764", "n01443537"]
    inner = [tar_of(tmp_path / "in" / f"{name}.tar", class_members(name)) for name in names]
    members = [(file.name, file.read_bytes()) for file in inner]
    outer = tar_of(tmp_path / "ILSVRC2012_img_train.tar", members)

    images = list(open_source(outer).images())

    expected = [
        f"ILSVRC2012_img_train.tar/{name}.tar/{name}_{n}.JPEG" for name in names for n in range(3)
    ]
    assert [image.path for image in images] == expected
    assert [image.label for image in images] == [name for name in names for _ in range(3)]
    assert [image.read().decode() for image in images] == [name for name in names for _ in range(3)]


def test_tar__a_damaged_tar_file_in_a_tar_file_is_refused(tmp_path: Path) -> None:
    data = tar_of(tmp_path / "in/a.tar", [("a.png", b"1" * 5000)]).read_bytes()
    outer = tar_of(tmp_path / "x.tar", [("a.tar", data[:3000]), ("b.tar", data)])

    assert "x.tar: cannot be read as a tar file at byte 512" in refused(outer)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train", "val"),
        ("shard-000", "shard-001"),
        ("000", "001"),
    ],
)
def test_tar__parts_and_numbers_of_shards_are_no_classes(
    tmp_path: Path, first: str, second: str
) -> None:
    for name in (first, second):
        tar_of(tmp_path / f"{name}.tar", [(f"{name}/{n}.jpg", b"") for n in range(3)])

    assert {label for _, label in listed(tmp_path)[0]} == {None}


def test_tar__classes_by_the_name_of_their_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        tar_of(tmp_path / f"{name}.tar", [(f"./{name}/{n}.jpg", b"") for n in range(2)])

    assert [label for _, label in listed(tmp_path)[0]] == ["cat", "cat", "dog", "dog"]
