"""Find the pictures and the labels in the samples of tar shards, which are stored as in WebDataset.

A sample consists of the members with one key. The key is the path up to the first dot of the file
name, the extension is the rest: `v1.0/p1.seg.png` has the key `v1.0/p1` and the extension
`seg.png`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from deepcluster_core.data.sources.base import is_image_name
from deepcluster_core.data.sources.labels import label_in_json, label_of

TEXT_LABELS = ("cls", "cls.txt", "class", "class.txt", "class_id", "label", "label.txt", "target")
"""Extensions of members whose whole text is the label, in the order in which they are tried."""
WITHOUT_TXT = (*TEXT_LABELS, "json")
WITH_TXT = (*WITHOUT_TXT, "txt")
MAX_TEXT_BYTES = 4096
"""Limit on the size of a text that is read as a label."""
MAX_JSON_BYTES = 1 << 20
"""Limit on the size of a JSON file in which a label is searched."""

MAIN_PICTURES = frozenset(("image", "img", "input", "photo", "picture", "rgb"))
"""First words of extensions that are preferred: `image.png` is chosen before `other.png`."""
NO_PICTURES = frozenset(
    (
        *("seg", "segm", "segmentation", "semantic", "instance", "panoptic", "mask", "masks"),
        *("label", "labels", "gt", "groundtruth", "annotation", "annotations", "alpha", "matte"),
        *("depth", "disparity", "normal", "normals", "edge", "edges", "flow", "heatmap"),
        *("thumb", "thumbnail", "preview"),
    )
)
"""Words in the extensions of masks and of other pictures that only accompany the main one."""
WEAK_PICTURES = frozenset(("npy", "heic", "heif", "jxl", "tga", "dcm", "dicom"))
"""Extensions that are ignored if the sample has other pictures: npy files are often embeddings, and
the others can be read only with an extra, or not at all."""


class Member(NamedTuple):
    """A regular member of a tar file, with a harmless name."""

    name: str
    key: str
    extension: str
    """Lower case; empty for a name without a dot."""
    offset: int
    """Offset of the contents in the tar file."""
    size: int

    @property
    def is_plain_picture(self) -> bool:
        """Whether the whole extension is that of an image file, such as `jpg`."""
        return "." not in self.extension and self.is_picture

    @property
    def is_picture(self) -> bool:
        """Whether the last part of the extension is that of an image file: `jpg`, `left.jpg`."""
        return _is_picture(self.extension)


@lru_cache(4096)  # shards have millions of members, but few different extensions
def _is_picture(extension: str) -> bool:
    return is_image_name(f".{extension}")


def split_name(name: str) -> tuple[str, str]:
    """Return the key and the extension of a member's name."""
    start = name.rfind("/") + 1
    dot = name.find(".", start)
    if dot < 0:
        return name, ""
    return name[:dot], name[dot + 1 :].lower()


class AmbiguousPictureError(Exception):
    """A sample has pictures of several formats, and it is unclear which one is meant."""


def chosen_pictures(
    sample: Iterable[Member], image_key: Collection[str] | None = None
) -> list[Member]:
    """Return the members of a sample that are its pictures, in stored order.

    Args:
        sample: all members of the sample.
        image_key: the extensions to take, if the user has chosen them. If None, masks are never
            taken; a plain extension (`jpg`) is preferred to one with a word in front (`left.jpg`);
            without a plain one all are taken. A number in front (`cat.1.jpg`) counts as a part of
            the file's name.

    Raises:
        AmbiguousPictureError: the sample has two plain extensions, such as `jpg` and `png`.
    """
    pictures = [member for member in sample if member.is_picture]
    if image_key is not None:
        return [member for member in pictures if member.extension in image_key]
    # A shortcut for nearly all samples.
    if len(pictures) == 1 and pictures[0].is_plain_picture:
        return pictures
    # Of several pictures, leave out those that are hardly the image of the sample.
    if len(pictures) > 1:
        strong = [member for member in pictures if not _is_weak(member.extension)]
        pictures = strong or pictures
    pictures = [member for member in pictures if not _is_mask(member.extension)]
    if len(pictures) < 2:
        return pictures
    # Prefer a plain extension, or else one that names the main picture.
    extensions = {member.extension for member in pictures}
    plain = {extension for extension in extensions if "." not in extension}
    if len(plain) > 1:
        raise AmbiguousPictureError
    preferred = plain or set(filter(_is_main, extensions))
    if len(preferred) != 1:
        return pictures
    return [m for m in pictures if m.extension in preferred or m.extension[0].isdigit()]


def _is_weak(extension: str) -> bool:
    last_word = extension.rpartition(".")[2]
    return last_word in WEAK_PICTURES


def _is_main(extension: str) -> bool:
    first_word = extension.partition(".")[0]
    return first_word in MAIN_PICTURES


def _is_mask(extension: str) -> bool:
    words = extension.rpartition(".")[0]
    if not words:
        return False
    return not NO_PICTURES.isdisjoint(re.split(r"[._-]", words))


@dataclass(frozen=True, slots=True)
class FoundLabel:
    """The label of a picture and the member that should hold it; each None if missing."""

    label: str | None = None
    member: Member | None = None


def find_label(
    picture: Member,
    beside: dict[str, Member],
    *,
    read: Callable[[Member, int], bytes],
    with_txt: bool,
    label_key: str | None = None,
) -> FoundLabel:
    """Return the label of a picture from the members of its sample.

    A label of the picture alone (`left.cls` for `left.jpg`) is preferred to that of the sample
    (`cls`), text to JSON, and JSON to `txt`, which may be a caption.

    Args:
        picture: a picture of the sample.
        beside: the members of the sample that are not pictures, by extension.
        read: returns the first bytes of a member, at most the given number.
        with_txt: whether `txt` members hold labels.
        label_key: the key of the label in JSON; then no other members are tried.
    """
    extensions = WITH_TXT if with_txt else WITHOUT_TXT
    if label_key is not None:
        extensions = ("json",)
    prefixes = [""]
    own_word = picture.extension.rpartition(".")[0]
    if own_word:
        prefixes.insert(0, f"{own_word}.")
    for prefix in prefixes:
        for extension in extensions:
            member = beside.get(prefix + extension)
            if member is None:
                continue
            label = read_label(member, read, label_key)
            # JSON often holds other facts than a label; the other members hold nothing else.
            if label is not None or extension != "json":
                return FoundLabel(label, member)
    return FoundLabel()


def read_label(
    member: Member, read: Callable[[Member, int], bytes], label_key: str | None = None
) -> str | None:
    """Return the label in a member; None if it has none that can be read."""
    if not member.extension.endswith("json"):
        if member.size > MAX_TEXT_BYTES:
            return None
        return label_of(read(member, MAX_TEXT_BYTES))
    if member.size > MAX_JSON_BYTES:
        return None
    data = read(member, MAX_JSON_BYTES)
    # A damaged member counts as one without a label.
    try:
        return label_in_json(data, label_key)
    except ValueError:
        return None


def are_labels(texts: Sequence[str]) -> bool:
    """Return whether the texts of `txt` members are classes rather than captions.

    Classes recur, captions do not. So every text must be short, at least two must differ, and on
    average each must occur three times. Whole numbers need to occur only twice, or to be few:
    many different numbers are ids.
    """
    distinct = set(texts)
    are_numbers = True
    for text in distinct:
        stripped = text.strip()
        if len(text) > 64 or "\n" in stripped:
            return False
        are_numbers = are_numbers and re.fullmatch(r"[+-]?\d+", stripped) is not None
    if are_numbers:
        max_classes = max(20, len(texts) // 2)
    else:
        max_classes = len(texts) // 3
    return 1 < len(distinct) <= max_classes


CLASS_FILE = re.compile(r"n\d{8}")
"""Name of an ImageNet class: its number in WordNet."""
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))


def is_class_file(stem: str, name: str) -> bool:
    """Return whether a tar file holds one class, from its name and that of its first picture.

    ImageNet's tar files are named `n01440764.tar`, and their members `n01440764_10026.JPEG`. Any
    other name that ends in a digit numbers a shard, and `train` is a part of the data.
    """
    if stem.lower() in SPLITS:
        return False
    is_numbered = stem[-1:].isdigit()
    if is_numbered and not CLASS_FILE.fullmatch(stem):
        return False
    *folders, file_name = name.split("/")
    return file_name.startswith(f"{stem}_") or stem in folders[-1:]
