"""Remarks on the pictures themselves: what a person would see at once in the gallery."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from deepcluster_core.report.gallery import Cluster, Gallery
from deepcluster_core.report.words import Remark

DARK = 24
"""Brightness, 0 to 255, below which a picture looks black: that of its brightest pixel. 12 bits of
16 that are read as if all were used reach 16. A dark picture with something in it reaches more: the
lamps of a street at night, stars, cells that glow."""
FLAT = 8
"""Contrast, in the same unit, below which a picture looks like one colour: the range of its middle
98 percent. Its full range must be small as well, less than `DARK`. In pictures generated like those
of a microscope, thumbnails of empty fields with the noise of a camera reach 4 to 6, and those with
cells 89 and more."""
MOST_OF = 0.8
"""Share of the pictures that must be so."""


@dataclass(frozen=True)
class _Look:
    """What a thumbnail looks like, 0 to 255: its brightest pixel, and two measures of contrast."""

    bright: float
    contrast: float
    spread: float
    data: bytes

    @property
    def is_dark(self) -> bool:
        return self.bright < DARK

    @property
    def is_flat(self) -> bool:
        return self.contrast < FLAT and self.spread < DARK


def picture_remarks(gallery: Gallery) -> list[Remark]:
    """Return remarks on a gallery that is black or of one colour, and on such clusters.

    Only the images that the gallery shows are looked at.
    """
    looks = {image_id: _look(data) for image_id, data in gallery.thumbnails.data.items()}
    if not looks:
        return []
    whole = _of_gallery(looks)
    if whole is not None:
        return [whole]
    return [*_of_clusters(gallery, looks)]


def _of_gallery(looks: Mapping[int, _Look]) -> Remark | None:
    flat = _share(look.is_flat for look in looks.values())
    dark = _share(look.is_dark for look in looks.values())
    advice = (
        "The network sees the same. Look at the files with another program. If they have more "
        "than 8 bits a channel and use few of them, set dataset.deep to a value that stretches "
        "them, and run again."
    )
    if dark >= MOST_OF:
        text = f"{dark:.0%} of the pictures below use less than {DARK} of 255 levels. {advice}"
        return Remark("bad", "The pictures are almost black", text)
    if flat >= MOST_OF:
        text = f"{flat:.0%} of the pictures below show a single colour. {advice}"
        return Remark("bad", "The pictures show nothing", text)
    return None


def _of_clusters(gallery: Gallery, looks: Mapping[int, _Look]) -> Iterable[Remark]:
    blank: list[int] = []
    equal: list[int] = []
    for cluster in gallery.clusters.values():
        found = _looks_of(cluster, looks)
        if len(found) < 2:
            continue
        most_frequent = Counter(look.data for look in found).most_common(1)[0][1]
        if _share(look.is_flat for look in found) >= MOST_OF:
            blank.append(cluster.cluster)
        elif most_frequent >= MOST_OF * len(found):
            equal.append(cluster.cluster)
    if blank:
        text = (
            f"{_images(gallery, blank)} lie in clusters that seem to hold pictures of a single "
            f"colour, such as empty tiles. Where they are of no interest, leave them out and run "
            f"again: each takes the place of a picture in training."
        )
        yield Remark("plain", "Blank pictures", text, clusters=tuple(blank))
    if equal:
        text = (
            f"{_images(gallery, equal)} lie in clusters whose pictures look exactly alike. If they "
            f"are copies, leave all but one out."
        )
        yield Remark("plain", "Identical pictures", text, clusters=tuple(equal))


def _looks_of(cluster: Cluster, looks: Mapping[int, _Look]) -> list[_Look]:
    shown = [looks.get(member.image_id) for member in cluster.shown]
    return [look for look in shown if look is not None]


def _images(gallery: Gallery, clusters: Sequence[int]) -> str:
    count = sum(gallery.clusters[cluster].size for cluster in clusters)
    return f"{count:,} images"


def _share(values: Iterable[bool]) -> float:
    found = [*values]
    return sum(found) / len(found)


def _look(data: bytes) -> _Look:
    with Image.open(BytesIO(data)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    # The middle of each channel: a picture in two colours of equal brightness is no single colour.
    low_C, high_C = np.percentile(pixels, (1, 99), axis=(0, 1))
    contrast = float((high_C - low_C).max())
    spread = float(np.ptp(pixels, axis=(0, 1)).max())
    return _Look(float(pixels.max()), contrast, spread, data)
