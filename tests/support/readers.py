"""Readers of files that may hold any bytes, for the tests that try such bytes."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from deepcluster_core.artifacts.checkpoints import load_momentum
from deepcluster_core.artifacts.commit import write_manifest
from deepcluster_core.artifacts.file_names import CLUSTERING, INDEX, LABELS, METRICS, MOMENTUM
from deepcluster_core.artifacts.image_rows import TextByImage, read_codes
from deepcluster_core.artifacts.manifest import MANIFEST, Manifest, inspect, read_manifest
from deepcluster_core.artifacts.tables import (
    read_cluster,
    read_clustering,
    read_index,
    read_labels,
    read_metrics,
)
from deepcluster_core.data.decode import UnreadableImageError, decode
from deepcluster_core.data.sources import open_source
from deepcluster_core.errors import DeepClusterError
from deepcluster_core.evaluation.voc.annotations import parse_objects
from deepcluster_core.evaluation.voc.dataset import CLASSES, Voc
from deepcluster_core.evaluation.voc.masks import decode_mask
from stages.runs.recipe import load_recipe, parse_overrides

CORPUS = Path(__file__).parents[1] / "faults" / "corpus"
MASK_SIZE = (12, 9)
"""Width and height of the masks, pixels."""


@dataclass(frozen=True)
class Reader:
    """A function that reads a file."""

    file: str
    """Name of the file."""
    read: Callable[[Path], object]
    """Called with the file's path."""
    answers: tuple[type[Exception], ...] = (DeepClusterError,)
    """Exceptions that it may raise."""
    tokens: tuple[bytes, ...] = field(default=())
    """Pieces of the file's language, for a fuzzer to put in."""

    def try_bytes(self, data: bytes, folder: Path) -> None:
        """Read these bytes; exceptions that are not in `answers` are not caught."""
        path = folder / self.file
        path.write_bytes(data)
        with suppress(*self.answers):
            self.read(path)

    def corpus(self) -> list[Path]:
        """Return the files of interesting bytes that are kept for this reader."""
        return sorted((CORPUS / self.name).glob("*"))

    @property
    def name(self) -> str:
        """Its name among `READERS`."""
        (name,) = [name for name, reader in READERS.items() if reader is self]
        return name


def read_both(path: Path) -> None:
    """Read a manifest as it is, and with a valid checksum, which an attacker could also write."""
    data = path.read_bytes()
    inspect(path.parent)
    with suppress(ValidationError):
        write_manifest(path.parent, Manifest.model_validate_json(data))
        inspect(path.parent)
    path.write_bytes(data)
    read_manifest(path.parent)


def read_assignment(path: Path) -> None:
    """Read an argument of the command line; bytes that are not UTF-8 become surrogates."""
    parse_overrides([path.read_bytes().decode("utf-8", "surrogateescape")])


def read_source(path: Path) -> None:
    source = open_source(path)
    source.fingerprint()
    source.count()
    for image in source.images():
        image.path.encode()
        with suppress(OSError):
            image.read()


def read_whole_index(path: Path) -> None:
    read_index(path.parent, ["path", "label"], [])
    read_codes(path, "label", stage="index")
    TextByImage(path, "path", stage="index")


def read_all_labels(path: Path) -> None:
    read_cluster(path.parent, 0, path.parent)
    read_labels(path.parent)


def read_picture(path: Path) -> None:
    for channels in (1, 3):
        decode(path.read_bytes(), channels=channels, shorter_side=8)


def read_voc(path: Path) -> None:
    voc = Voc(path, 2012)
    voc.marks("train", voc.classes("train"))
    for name in voc.listed("train", "Segmentation"):
        voc.objects(name)
        voc.mask(name)
        voc.picture(name, channels=3)


def read_mask(path: Path) -> None:
    decode_mask(path.read_bytes(), num_classes=len(CLASSES), size=MASK_SIZE)


YAML = tuple(
    b"!! & *a &a <<: { [ ] } - \t \0 \xff 1e999 .nan .inf !!timestamp !!int !!bool !!binary 0x 0b "
    b"2024-13-45 ' \" \\ud800 : \n\n  | > ? # %YAML ~ null 1__ 9e9999 -.inf = 190:20:30".split(b" ")
)
JSON = tuple(b'{ } [ ] " \\ \\u0000 \\ud800 , : null true 1e999 -0 9999999999999999999999'.split())
XML = tuple(
    b"<object> </object> <bndbox> <xmin> 1e999 nan <!DOCTYPE <!ENTITY &a; &#xd800; <![CDATA[ ]]> "
    b"<?xml encoding='utf-16' encoding='utf-7' encoding='idna' \xff\xfe \xef\xbb\xbf \0".split(b" ")
)
PNG = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fdAT", b"zTXt", b"IEND", b"eXIf")
CSV = tuple(b'path label , " "" \n \r \r\n \t \0 \xff \xef\xbb\xbf ../ / //'.split(b" "))

READERS = {
    "recipe": Reader("recipe.yaml", load_recipe, tokens=YAML),
    "set": Reader("assignment.txt", read_assignment, tokens=(b"=", b".", *YAML)),
    "manifest": Reader(MANIFEST, read_both, tokens=JSON),
    "index": Reader(INDEX, read_whole_index),
    "labels": Reader(LABELS, read_all_labels),
    "metrics": Reader(METRICS, lambda path: read_metrics(path.parent)),
    "clustering": Reader(CLUSTERING, lambda path: read_clustering(path.parent), tokens=JSON),
    "momentum": Reader(MOMENTUM, lambda path: load_momentum(path.parent), tokens=JSON),
    "list": Reader("list.txt", read_source, tokens=CSV),
    "table": Reader("list.csv", read_source, tokens=CSV),
    "parquet": Reader("shard.parquet", read_source),
    "tar": Reader("shard.tar", read_source, tokens=(b"ustar", b"0000644\0", b"\0" * 512)),
    "picture": Reader("picture.bin", read_picture, answers=(UnreadableImageError,)),
    "voc": Reader("voc.tar", read_voc, tokens=(*XML, *PNG)),
    "annotation": Reader(
        "1.xml", lambda path: parse_objects(path.read_bytes()), answers=(ValueError,), tokens=XML
    ),
    "mask": Reader("mask.png", read_mask, answers=(ValueError,), tokens=PNG),
}
