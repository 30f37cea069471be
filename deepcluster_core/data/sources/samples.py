"""The samples of tar shards, as WebDataset has them: which member is the picture, which the label.

A sample is the members with one key. The key is the path up to the first dot of the base name,
the extension is the rest: `v1.0/p1.seg.png` has the key `v1.0/p1` and the extension `seg.png`.
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
MAX_JSON_BYTES = 1 << 20

MAIN_PICTURES = frozenset(("image", "img", "input", "photo", "picture", "rgb"))
"""In front of the picture's own extension: `image.png` is chosen before `other.png`."""
NO_PICTURES = frozenset(
    (
        *("seg", "segm", "segmentation", "semantic", "instance", "panoptic", "mask", "masks"),
        *("label", "labels", "gt", "groundtruth", "annotation", "annotations", "alpha", "matte"),
        *("depth", "disparity", "normal", "normals", "edge", "edges", "flow", "heatmap"),
        *("thumb", "thumbnail", "preview"),
    )
)
"""Words in front of the extension of a mask, or of another picture that belongs to a picture."""
WEAK_PICTURES = frozenset(("npy", "heic", "heif", "jxl", "tga"))
"""Beside another picture, an array is rather an embedding; the others cannot be read."""


class Member(NamedTuple):
    """A regular member of a tar file, with a harmless name."""

    name: str
    key: str
    extension: str
    """In lower case; empty for a name without a dot."""
    offset: int
    size: int

    @property
    def is_plain_picture(self) -> bool:
        """Whether the extension is one of pictures, without a word in front."""
        return "." not in self.extension and self.is_picture

    @property
    def is_picture(self) -> bool:
        """Whether the last part of the extension is one of pictures."""
        return _is_picture(self.extension)


@lru_cache(4096)  # there are millions of members, of few extensions
def _is_picture(extension: str) -> bool:
    return is_image_name(f".{extension}")


def split_name(name: str) -> tuple[str, str]:
    """Return the key and the extension of a member's name."""
    start = name.rfind("/") + 1
    dot = name.find(".", start)
    return (name, "") if dot < 0 else (name[:dot], name[dot + 1 :].lower())


class AmbiguousPictureError(Exception):
    """A sample has pictures of several formats, and nothing tells which one is meant."""


def chosen_pictures(
    sample: Iterable[Member], image_key: Collection[str] | None = None
) -> list[Member]:
    """Return the members of a sample that are its pictures, in stored order.

    Args:
        sample: all of its members.
        image_key: the extensions to take, if somebody has chosen. None: a mask never; a plain
            extension (`jpg`) before one with a word in front (`left.jpg`); without a plain one
            all of them. Numbers in front (`cat.1.jpg`) are taken for a part of the file's name.

    Raises:
        AmbiguousPictureError: there are two plain extensions, such as `jpg` and `png`.
    """
    pictures = [member for member in sample if member.is_picture]
    if len(pictures) == 1 and image_key is None and pictures[0].is_plain_picture:
        return pictures
    if image_key is not None:
        return [member for member in pictures if member.extension in image_key]
    if len(pictures) > 1:
        strong = [m for m in pictures if m.extension.rpartition(".")[2] not in WEAK_PICTURES]
        pictures = strong or pictures
    pictures = [member for member in pictures if not _is_mask(member.extension)]
    if len(pictures) < 2:
        return pictures
    plain = {member.extension for member in pictures if "." not in member.extension}
    if len(plain) > 1:
        raise AmbiguousPictureError
    main = {m.extension for m in pictures if m.extension.partition(".")[0] in MAIN_PICTURES}
    wanted = plain or main
    if len(wanted) != 1:
        return pictures
    return [m for m in pictures if m.extension in wanted or m.extension[0].isdigit()]


def _is_mask(extension: str) -> bool:
    words = extension.rpartition(".")[0]
    return bool(words) and not NO_PICTURES.isdisjoint(re.split(r"[._-]", words))


@dataclass(frozen=True, slots=True)
class FoundLabel:
    """The label of a picture, and the member that it comes from; None each where there is none."""

    label: str | None = None
    member: Member | None = None


def find_label(
    picture: Member,
    beside: dict[str, Member],
    *,
    read: Callable[[Member, int], bytes],
    with_txt: bool,
) -> FoundLabel:
    """Return the label of a picture from the members of its sample.

    A label of the picture alone (`left.cls` for `left.jpg`) comes before that of the sample
    (`cls`); text before JSON, and JSON before `txt`, which may be a caption.

    Args:
        picture: of the sample.
        beside: the members of the sample that are no pictures, by extension.
        read: returns a member's first bytes.
        with_txt: `txt` members hold labels.
    """
    own = picture.extension.rpartition(".")[0]
    for prefix in (f"{own}.", "") if own else ("",):
        for extension in WITH_TXT if with_txt else WITHOUT_TXT:
            member = beside.get(prefix + extension)
            if member is not None:
                label = read_label(member, read)
                if label is not None or extension != "json":
                    return FoundLabel(label, member)
    return FoundLabel()


def read_label(member: Member, read: Callable[[Member, int], bytes]) -> str | None:
    """Return the label in a member; None where there is none that can be read."""
    is_json = member.extension.endswith("json")
    limit = MAX_JSON_BYTES if is_json else MAX_TEXT_BYTES
    if member.size > limit:
        return None
    data = read(member, limit)
    if not is_json:
        return label_of(data)
    try:
        return label_in_json(data)
    except ValueError:
        return None


def are_labels(texts: Sequence[str]) -> bool:
    """Tell whether the texts of `txt` members are classes rather than captions.

    Classes come again and again, captions do not. So every text must be short, there must be at
    least two different ones, and on average each must occur three times. Whole numbers need to
    occur only twice, or to be few: many numbers that are all different are ids.
    """
    different = set(texts)
    if any(len(text) > 64 or "\n" in text.strip() for text in different):
        return False
    are_numbers = all(re.fullmatch(r"[+-]?\d+", text.strip()) for text in different)
    most = max(20, len(texts) // 2) if are_numbers else len(texts) // 3
    return 1 < len(different) <= most


CLASS_FILE = re.compile(r"n\d{8}")
"""A class of ImageNet is called by its number in WordNet."""
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))


def is_class_file(stem: str, name: str) -> bool:
    """Tell whether a tar file holds one class, from its name and that of its first picture.

    ImageNet is shipped as `n01440764.tar` with the members `n01440764_10026.JPEG`. A stem that ends
    in a digit is otherwise taken for the number of a shard, and `train` for a part of the data.
    """
    is_number = stem[-1:].isdigit() and not CLASS_FILE.fullmatch(stem)
    if is_number or stem.lower() in SPLITS:
        return False
    *folders, base = name.split("/")
    return base.startswith(f"{stem}_") or stem in folders[-1:]
