"""Pascal VOC for segmentation and detection: plain lists, masks, names of classes, digests."""

import io
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.dataset import CLASSES, PALETTE, VOID, Task, Voc
from deepcluster_core.evaluation.voc.masks import decode_mask
from tests.support import voc_tree
from tests.support.timeouts import WITHIN_S
from tests.support.voc_tree import HEIGHT, WIDTH, write_voc2012

SIZES = {"train": 5, "val": 4}
SIZE = (WIDTH, HEIGHT)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return VOCdevkit/VOC2012 of nine pictures."""
    write_voc2012(tmp_path, sizes=SIZES)
    return tmp_path / "VOCdevkit" / "VOC2012"


def png(mask: Image.Image, **options: int) -> bytes:
    stored = io.BytesIO()
    mask.save(stored, "PNG", **options)
    return stored.getvalue()


def numbered(*numbers: int) -> Image.Image:
    """Return a mask of the drawn pictures' size that has these numbers in turn."""
    mask = Image.fromarray(np.resize(np.array(numbers, np.uint8), (HEIGHT, WIDTH)))
    return recoloured(mask, PALETTE.tobytes())


def recoloured(mask: Image.Image, palette: bytes) -> Image.Image:
    mask.putpalette(palette)
    return mask


def grey_of_4_bits() -> bytes:
    """Return a mask that Pillow reads, but does not write: values are stretched to 0..255."""
    header = struct.pack(">2I5B", WIDTH, HEIGHT, 4, 0, 0, 0, 0)
    rows = zlib.compress(bytes(HEIGHT * (1 + WIDTH // 2)))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    told = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(told)


def test_palette__is_vocs() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128)}
    known |= {8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {number: tuple(PALETTE[number].tolist()) for number in known} == known
    assert len(CLASSES) == 21
    assert (CLASSES[1], CLASSES[15], CLASSES[20]) == ("aeroplane", "person", "tvmonitor")


@pytest.mark.parametrize("task", ["Main", "Segmentation"])
def test_listed__has_the_names_of_a_subset_sorted(tree: Path, task: Task) -> None:
    path = tree / "ImageSets" / task / "val.txt"
    path.write_text("\ufeff" + "\r\n".join(reversed(path.read_text().split())) + "\n \n")
    voc = Voc(tree, 2012)

    assert voc.listed("train", task) == tuple(f"{number:06d}" for number in range(5))
    assert voc.listed("val", task) == tuple(f"{number:06d}" for number in range(5, 9))
    assert voc.listed("trainval", task) == voc.listed("train", task) + voc.listed("val", task)


def test_mask__has_the_numbers_of_what_was_drawn(tmp_path: Path) -> None:
    masks = write_voc2012(tmp_path, sizes={"train": 30})
    voc = Voc(tmp_path, 2012)
    for name, mask_HW in masks.items():
        assert np.array_equal(voc.mask(name), mask_HW)
        for found in voc.objects(name):
            left, top, right, bottom = map(int, found.box)
            inside = np.bincount(mask_HW[top:bottom, left:right].ravel(), minlength=256)
            number = voc.mask_classes().index(found.name)
            assert (inside[number] > 50) != found.difficult, "difficult objects are void"
    assert set(np.unique(list(masks.values()))) == {0, 1, 2, 3, 4, VOID}


def test_mask__many_threads_read_at_once(tree: Path) -> None:
    voc, names = Voc(tree, 2012), [f"{number:06d}" for number in range(9)]
    expected = {name: Voc(tree, 2012).mask(name) for name in names}
    together = threading.Barrier(4, timeout=WITHIN_S)

    def read(name: str) -> bool:
        if name < "000004":
            together.wait()
        return np.array_equal(voc.mask(name), expected[name])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, names))


OTHER = bytes((9, 9, 9, 1, 0, 0, 255, 255, 255))
MASKS: dict[str, tuple[tuple[int, ...], Callable[[Image.Image], bytes]]] = {
    "a palette": ((0, 3, 20, VOID), png),
    "a palette of 4 bits": ((0, 3, 9, 15), lambda mask: png(mask, bits=4)),
    "a palette of 1 bit": ((0, 1, 1), lambda mask: png(mask, bits=1)),
    "grey": ((0, 3, 20, VOID), lambda mask: png(Image.fromarray(np.asarray(mask)))),
    "other colours": ((0, 1, 2), lambda mask: png(recoloured(mask, OTHER))),
    "a palette that ends before void": (
        (0, 3, 20, VOID),
        lambda mask: png(recoloured(mask, PALETTE[:21].tobytes()), bits=8),
    ),
    "background alone": ((0,), png),
    "void alone": ((VOID,), png),
}


@pytest.mark.parametrize(("numbers", "encode"), MASKS.values(), ids=MASKS.keys())
def test_decode_mask__gives_the_numbers_not_the_colours(
    numbers: tuple[int, ...], encode: Callable[[Image.Image], bytes]
) -> None:
    mask_HW = decode_mask(encode(numbered(*numbers)), num_classes=21, size=SIZE)
    assert mask_HW.dtype == np.uint8
    assert np.array_equal(mask_HW, np.resize(np.array(numbers), (HEIGHT, WIDTH)))


def shrunk() -> bytes:
    """Return a mask of person and void as programs leave it that keep used colours alone."""
    return png(recoloured(numbered(0, 1, 2), PALETTE[[0, 15, VOID]].tobytes()))


BAD_MASKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "colours": (lambda: png(numbered(0, 15).convert("RGB")), "not numbers .* RGB of 8 bits"),
    "colours and alpha": (lambda: png(numbered(1).convert("RGBA")), "not numbers .* RGBA"),
    "16-bit grey": (
        lambda: png(Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint16))),
        "not numbers .* of 16 bits",
    ),
    "4-bit grey": (grey_of_4_bits, "not numbers .* L of 4 bits"),
    "black and white": (lambda: png(numbered(0, 1).convert("1")), "not numbers .* 1 of 1 bits"),
    "another size": (lambda: png(numbered(0).resize((60, 80))), "60 x 80 pixels, its picture 80"),
    "a number too high": (lambda: png(numbered(0, 21)), "21 is not the number of a class"),
    "renumbered": (shrunk, "has VOC's colour of 15 as number 1"),
    "cut off": (lambda: png(numbered(0, 1, 2))[:-40], "damaged or truncated"),
    "a JPEG": (lambda: b"\xff\xd8\xff\xe0 1234567890123456789012", "damaged or truncated"),
    "nothing": (lambda: b"", "damaged or truncated"),
}


@pytest.mark.parametrize(("make", "reason"), BAD_MASKS.values(), ids=BAD_MASKS.keys())
def test_mask__bad_ones_are_told(tree: Path, make: Callable[[], bytes], reason: str) -> None:
    (tree / "class_names.txt").unlink()
    (tree / "SegmentationClass" / "000000.png").write_bytes(make())
    told = rf"SegmentationClass/000000\.png: the mask cannot be read \(.*{reason}"
    with pytest.raises(SourceError, match=told):
        Voc(tree, 2012).mask("000000")


def test_mask__numbers_end_with_the_trees_own_classes(tree: Path) -> None:
    path = tree / "SegmentationClass" / "000000.png"
    path.write_bytes(png(numbered(0, 5)))
    with pytest.raises(SourceError, match="5 is not the number of a class; the numbers are 0 to 4"):
        Voc(tree, 2012).mask("000000")


def test_mask__without_its_picture_or_itself_is_told(tree: Path) -> None:
    (tree / "SegmentationClass" / "000000.png").unlink()
    (tree / "JPEGImages" / "000001.jpg").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"000000\.png: the mask .*No such file"):
        Voc(tree, 2012).mask("000000")
    with pytest.raises(SourceError, match=r"000001\.jpg: the picture .*not an image"):
        Voc(tree, 2012).mask("000001")


def test_mask__is_that_of_the_upright_picture(tree: Path) -> None:
    path = tree / "JPEGImages" / "000000.jpg"
    with Image.open(path) as picture:
        turned, exif = picture.transpose(Image.Transpose.ROTATE_90), picture.getexif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    turned.save(path, exif=exif)
    voc = Voc(tree, 2012)

    assert turned.size == (HEIGHT, WIDTH)
    assert voc.picture("000000", channels=3).shape[:2] == voc.mask("000000").shape


def test_mask_classes__are_vocs_unless_the_tree_names_its_own(tree: Path) -> None:
    assert Voc(tree, 2012).mask_classes() == ("background", *voc_tree.CLASSES)
    (tree / "class_names.txt").unlink()
    assert Voc(tree, 2012).mask_classes() == CLASSES


def fingerprint(tree: Path, task: Task = "Segmentation") -> str:
    return Voc(tree, 2012).fingerprint_listed(("train",), task)


def read_all(tree: Path) -> None:
    Voc(tree, 2012).mask_classes()
    fingerprint(tree, "Main")
    fingerprint(tree)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


LIST = "ImageSets/Segmentation/train.txt"
BAD_TREES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list": (
        lambda tree: (tree / LIST).unlink(),
        r"train\.txt: this list does not exist\.\n.*VOCtrainval_11-May-2012\.tar of train",
    ),
    "a name twice": (lambda tree: append(tree / LIST, "000000\n"), r"train\.txt, line 6: '000000'"),
    "a way out": (lambda tree: append(tree / LIST, "../x\n"), r"train\.txt, line 6: '\.\./x'"),
    "a list of nothing": (lambda tree: (tree / LIST).write_text("\n"), "the list is empty"),
    "a list of bytes": (
        lambda tree: (tree / LIST).write_bytes(b"\xff\xfe\x00"),
        r"train\.txt: the list cannot be read",
    ),
    "the list of a class": (
        lambda tree: shutil.copy(tree / "ImageSets/Main/disc_train.txt", tree / LIST),
        r"JPEGImages: 5 pictures of the lists are missing: 000000 +-?1\.jpg",
    ),
    "no picture": (
        lambda tree: (tree / "JPEGImages/000002.jpg").unlink(),
        r"JPEGImages: 1 pictures of the lists are missing: 000002\.jpg",
    ),
    "no annotation": (
        lambda tree: (tree / "Annotations/000002.xml").unlink(),
        r"Annotations: 1 annotations of the lists are missing: 000002\.xml",
    ),
    "no masks": (
        lambda tree: shutil.rmtree(tree / "SegmentationClass"),
        r"SegmentationClass: 5 masks of the lists are missing: 000000\.png, .*000004\.png\.",
    ),
    "a class named twice": (
        lambda tree: append(tree / "class_names.txt", "disc\n"),
        r"class_names\.txt: .*it has 6 names, 5 of them different",
    ),
    "background alone": (
        lambda tree: (tree / "class_names.txt").write_text("background"),
        r"class_names\.txt: .*it has 1 names",
    ),
}


def test_listed__a_list_of_ones_own_may_have_any_name(tree: Path) -> None:
    lists = tree / "ImageSets/Segmentation"
    (lists / "train_aug.txt").write_text("000007\n000000\n")
    assert Voc(tree, 2012).listed("train_aug", "Segmentation") == ("000000", "000007")
    with pytest.raises(
        SourceError, match=r"list does not exist\.\n.*one of these: train, train_aug, train"
    ):
        Voc(tree, 2012).listed("aug", "Segmentation")
    with pytest.raises(SourceError, match="list does not exist"):
        Voc(tree, 2012).listed("../Main/train", "Segmentation")


@pytest.mark.parametrize(("damage", "message"), BAD_TREES.values(), ids=BAD_TREES.keys())
def test_voc__bad_trees_for_segmentation_are_told(
    tree: Path, damage: Callable[[Path], object], message: str
) -> None:
    read_all(tree)
    damage(tree)
    with pytest.raises(SourceError, match=message):
        read_all(tree)


def test_fingerprint_listed__follows_what_the_task_reads(tree: Path) -> None:
    def after(change: str) -> tuple[bool, bool]:
        path, before = tree / change, (fingerprint(tree, "Main"), fingerprint(tree))
        os.utime(path, ns=(1, 1))
        return before[0] != fingerprint(tree, "Main"), before[1] != fingerprint(tree)

    assert after("JPEGImages/000000.jpg") == (True, True)
    assert after("Annotations/000000.xml") == (True, False)
    assert after("SegmentationClass/000000.png") == (False, True)
    assert after("JPEGImages/000008.jpg") == (False, False), "not in train"
    assert after(LIST) == (False, False), "contents of lists count, not their times"
    for path in (LIST, "class_names.txt"):
        before = fingerprint(tree, "Main"), fingerprint(tree)
        (tree / path).write_text("\n".join(reversed((tree / path).read_text().split())))
        assert fingerprint(tree) != before[1]
        assert fingerprint(tree, "Main") == before[0]
