"""The facts that the page of an image lists."""

from dataclasses import dataclass, field

import numpy as np

from deepcluster_core.artifacts.images import ShownImages
from deepcluster_core.artifacts.tables import read_index
from deepcluster_core.errors import DeepClusterError
from deepcluster_core.inspection.outliers import outlier_scores
from deepcluster_core.text import number, share, three_decimals
from flows.look.contents import EpochContents, RunContents
from flows.look.showing import Paging, ShownImage, shown_image
from stages.runs.run_images import NEIGHBOURS

SIMILAR = 24
"""Similar images on a page."""
MOST_SIMILAR = 2400
"""Similar images that can be paged through."""

COLOURS = {1: "grey", 3: "colour"}
"""Names for numbers of channels."""


@dataclass
class Similar:
    """The images most similar to one, or why they are not known."""

    images: list[ShownImage] = field(default_factory=list[ShownImage])
    """Those of one page."""
    paging: Paging = field(default_factory=lambda: Paging.of(0, SIMILAR, 1))
    outlier: float | None = None
    """The outlier score of the image, 0 to 1."""
    second_cluster: int | None = None
    """The cluster whose centroid is the next after that of its own."""
    lacks: str | None = None


def similar(run: RunContents, contents: EpochContents, image_id: int, page: int) -> Similar:
    """Return a page of the images most similar to an image, the most similar first."""
    paging = Paging.of(min(run.images.num_images - 1, MOST_SIMILAR), SIMILAR, page)
    try:
        found = contents.neighbours(np.array([image_id]), paging.last)
        second_cluster = None
        if contents.num_clusters > 1:
            own = slice(image_id, image_id + 1)
            second_cluster = int(contents.facts.second_clusters_of(own)[0])
    except DeepClusterError as error:  # the run keeps the features of its last epochs only
        return Similar(lacks=str(error))
    images: list[ShownImage] = []
    on_page = (found.image_id_NM[0, paging.part], found.similarity_NM[0, paging.part])
    for other, cosine in zip(*on_page, strict=True):
        cluster = contents.labels.cluster_N[other]
        caption = f"{three_decimals(float(cosine))} · {cluster}"
        images.append(shown_image(run, int(other), caption))
    nearest = type(found)(found.image_id_NM[:, :NEIGHBOURS], found.similarity_NM[:, :NEIGHBOURS])
    return Similar(images, paging, float(outlier_scores(nearest)[0]), second_cluster)


def facts_of(
    run: RunContents, contents: EpochContents, image_id: int, outlier: float | None
) -> dict[str, str]:
    """Return what is known of an image, as text by name."""
    columns = ["width", "height", "format"]
    (row,) = read_index(run.images.folder, columns, [image_id])
    height, width, _ = run.images[image_id].shape
    place = int(np.flatnonzero(contents.members(_cluster(contents, image_id)) == image_id)[0])
    stability_N = contents.stability
    size = int(contents.sizes[_cluster(contents, image_id)])
    facts = {
        "number": str(image_id),
        "class": run.class_of(image_id),
        "original": f"{row['width']} × {row['height']} pixels, {row['format']}",
        "packed": f"{width} × {height} pixels, {_colours(run.images)}",
        "distance to the centroid": three_decimals(float(contents.labels.distance_N[image_id])),
        "nearest to it": f"{number(place + 1)} of {number(size)}",
        "stability": None if stability_N is None else share(float(stability_N[image_id])),
        "outlier score": None
        if outlier is None
        else f"{outlier:.3f} (near 0 if it has near copies)",
    }
    return {name: value for name, value in facts.items() if value is not None}


def _colours(images: ShownImages) -> str:
    """Return the channels of packed images in words, and which of them are shown."""
    if images.has_copies:
        text = "grey, with a copy in colour"
    else:
        text = COLOURS.get(images.packed_channels, f"{images.packed_channels} channels")
    if images.bands is None:
        return text
    return f"{text}, shown by {', '.join(map(str, images.bands))}"


def _cluster(contents: EpochContents, image_id: int) -> int:
    return int(contents.labels.cluster_N[image_id])
