"""Retrieval: photographs of landmarks, networks -> mean average precision of each. Table 5.

Suffixes: N images of the database, Q queries, D values of a descriptor, K ranks.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field, PositiveInt, field_validator

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.manifest import digest_of
from deepcluster_core.artifacts.tables import write_frame
from deepcluster_core.config import Precision, StrictConfig
from deepcluster_core.config_yaml import parse
from deepcluster_core.context import Context
from deepcluster_core.data.resize import Pixels
from deepcluster_core.data.sources.base import displayed
from deepcluster_core.evaluation.retrieval.average_precision import chance
from deepcluster_core.evaluation.retrieval.drawing import Shown, Verdict, draw_retrieved
from deepcluster_core.evaluation.retrieval.landmarks import (
    Query,
    fingerprint_images,
    list_photographs,
    open_landmarks,
)
from deepcluster_core.evaluation.retrieval.photographs import Album
from deepcluster_core.evaluation.retrieval.rmac import RegionReader
from deepcluster_core.evaluation.retrieval.search import Found, Task, search
from deepcluster_core.local_paths import expanded, usable_path
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.precision import computed_in
from deepcluster_core.stage import External, stage
from stages.evaluations.declaration import Evaluation, Score
from stages.evaluations.shared.networks import ComparedNetworks
from stages.evaluations.shared.progress import ProgressCounter
from stages.evaluations.shared.results import RESULTS, Row, write_results

QUERIES = "queries.parquet"
PICTURE = "retrieval.png"

SHOWN_QUERIES, SHOWN_RANKS = 8, 8
NAMED = 50  # unusable images that are named in the manifest, at most


class RetrievalConfig(StrictConfig):
    """The protocol of retrieval: how images are described and compared."""

    layer: str
    """A named layer of the network whose output is a map, e.g. conv5. auto: the last convolution,
    before the max-pooling that follows it."""

    long_side: PositiveInt
    """Length to which the longer side of images is resized, pixels; the aspect ratio is kept.
    Queries are cut out of the resized image, and not resized again."""

    levels: PositiveInt
    """Number of grids of square regions; each grid is finer than the one before."""

    overlap: float = Field(ge=0, lt=1)
    """Overlap of neighbouring regions along the longer side of a map, as a fraction of a region's
    side, 0 to 1."""

    dims: PositiveInt
    """Length of a descriptor. It is shorter if the layer has fewer filters, or if the whitening is
    learnt from fewer regions or directions; the results report the actual length."""

    eigenvalue_floor: float = Field(ge=0, le=1)
    """Smallest eigenvalue that whitening divides by, as a fraction of the largest, 0 to 1."""

    whiten_with: Path | None
    """Folder of images, in any layout, from whose regions the whitening is learnt. null: the
    database itself."""

    whiten_images: PositiveInt
    """Largest number of images to learn the whitening from; they are drawn by the run's seed."""

    precision: Precision
    """Number format of the forward pass; everything after it is float32."""

    @field_validator("whiten_with")
    @classmethod
    def _usable(cls, whiten_with: Path | None) -> Path | None:
        return None if whiten_with is None else usable_path(whiten_with)

    def whitening_folder(self, data: Path) -> Path | None:
        """Return the folder to learn the whitening from; None for the database itself."""
        if self.whiten_with is None:
            return None
        folder = expanded(self.whiten_with, Path()).absolute()
        # The key can name the database, too, by another path or through a link.
        if folder.resolve() == data.resolve():
            return None
        return folder


def data_digest(data: Path, protocol: RetrievalConfig) -> str:
    """Return a digest of the data set, which covers names, sizes and times of the images.

    Raises:
        SourceError: the data set, or the one to learn the whitening from, is missing or has a
            different layout.
    """
    folder = protocol.whitening_folder(data)
    learnt_on = None
    if folder is not None:
        learnt_on = fingerprint_images(folder, list_photographs(folder))
    return digest_of([open_landmarks(data, parse).fingerprint(), learnt_on])


@stage(name="retrieval", version=1, kind="evaluations/retrieval", files=(RESULTS, QUERIES, PICTURE))
def retrieval(
    draft: Draft,
    network: NetworkConfig,
    protocol: RetrievalConfig,
    /,
    *,
    data: External,
    checkpoint: Path | None,
    supervised: External | None,
) -> None:
    """Write a row for each compared network: the mean average precision over all queries, percent.

    For each image, memory holds only its name and 2 kB.

    Args:
        draft: artifact of the evaluation.
        network: the run's architecture.
        protocol: how images are described and compared.
        data: folder of the data set, see `landmarks`.
        checkpoint: the epoch's checkpoint; None compares no trained network.
        supervised: .safetensors file of weights trained with true labels, to compare with.
    """
    context, out = draft.context, draft.folder
    task = _task(data.path, protocol, channels=data.channels, seed=context.seed)
    # Read every query once, so that an unreadable one fails now and not after hours.
    for query in task.queries:
        task.part(query)
    # Rank the database for each query, with one network after the other.
    networks = ComparedNetworks(network, data.channels, context, checkpoint, supervised)
    counter = ProgressCounter(context, len(networks) * task.steps)
    found = {name: _search(model, task, protocol, context, counter) for name, model in networks}
    # Draw what one network finds, and write the precision of every query in every network.
    pictured = found[networks.pictured]
    picture_HWC = _draw(task, pictured)
    Image.fromarray(picture_HWC).save(out / PICTURE)
    query_rows = list(_query_rows(task, found))
    write_frame(out / QUERIES, pd.DataFrame(query_rows))
    draft.facts |= {
        "picture_of": networks.pictured,
        "left_out": _name_left_out(task, pictured),
        "precision": computed_in(context.device, protocol.precision),
    }
    rows = [_row(task, name, of_network, protocol) for name, of_network in found.items()]
    write_results(draft, rows, protocol)


def _task(data: Path, protocol: RetrievalConfig, *, channels: int, seed: int) -> Task:
    """Return the database, the queries, and the images to learn the whitening from."""
    landmarks = open_landmarks(data, parse)
    folder = protocol.whitening_folder(data) or data
    names = list_photographs(folder)
    # Draw the images to learn the whitening from, and keep them in the order of the folder.
    if len(names) > protocol.whiten_images:
        generator = seeding.numpy_generator(seed, "retrieval", "whitening")
        drawn = generator.choice(len(names), protocol.whiten_images, replace=False)
        in_order = np.sort(drawn).tolist()
        names = tuple(names[number] for number in in_order)
    return Task(
        base=Album(data, landmarks.images, channels, protocol.long_side),
        queries=landmarks.queries,
        learn_on=Album(folder, names, channels, protocol.long_side),
    )


def _search(
    model: Network,
    task: Task,
    protocol: RetrievalConfig,
    context: Context,
    counter: ProgressCounter,
) -> Found:
    """Return the images that a network finds for each query."""
    reader = RegionReader(
        model,
        layer=protocol.layer,
        levels=protocol.levels,
        overlap=protocol.overlap,
        device=context.device,
        precision=protocol.precision,
    )
    return search(
        reader,
        task,
        dims=protocol.dims,
        floor=protocol.eigenvalue_floor,
        workers=context.workers,
        stepped=counter.advance,
    )


def _row(task: Task, network: str, found: Found, protocol: RetrievalConfig) -> Row:
    """Return the row of a network: its result and that of random rankings, in percent.

    Images that could not be used are in no ranking, so chance does not count them either.
    """
    num_ranked = found.ranked_QN.shape[1]
    left_out = found.left_out.keys()
    by_chance: list[float] = []
    for query in task.queries:
        num_positive = len(query.positive - left_out)
        # Junk images are neither right nor wrong: they do not count in a ranking.
        num_junk = len(query.junk - left_out)
        by_chance.append(chance(num_positive, num_ranked - num_junk))
    return {
        "network": network,
        "data_set": _name(task.base),
        "queries": len(task.queries),
        "images": num_ranked,
        "left_out": len(found.left_out),
        "mAP": 100 * float(np.mean(found.precision_Q)),
        "chance": 100 * float(np.mean(by_chance)),
        "dims": found.dims,
        "whitened_on": _name(task.learn_on),
        "deviations": "; ".join(_deviations(task, found, protocol)),
    }


def _deviations(task: Task, found: Found, protocol: RetrievalConfig) -> Iterator[str]:
    """Yield a sentence for each difference from table 5."""
    # Whitening that is learnt on the database itself makes the task easier.
    if task.learn_on.root == task.base.root:
        yield "whitening learnt on the data base itself, not on another data set"
    if protocol.layer != "auto":
        yield f"layer {protocol.layer}, not the last convolution"
    for name, value, value_in_paper in (
        ("long side", protocol.long_side, 1024),
        ("grid levels", protocol.levels, 3),
        ("overlap", protocol.overlap, 0.4),
        ("dims", found.dims, 512),
        ("eigenvalue floor", protocol.eigenvalue_floor, 1e-5),
    ):
        if value != value_in_paper:
            yield f"{name} {value}, not {value_in_paper}"
    if found.left_out:
        yield f"{len(found.left_out)} images that cannot be used left out"


def _name(album: Album) -> str:
    """Return the name of an album's folder, as people see it."""
    return displayed(album.root.resolve().name)


def _name_left_out(task: Task, found: Found) -> dict[str, str]:
    """Return the names of the first images left out, each with the reason."""
    reasons: dict[str, str] = {}
    for number, reason in list(found.left_out.items())[:NAMED]:
        name = displayed(task.base.names[number])
        reasons[name] = reason
    return reasons


def _query_rows(task: Task, found: Mapping[str, Found]) -> Iterator[Row]:
    """Yield a row for each network and query."""
    for network, of_network in found.items():
        for query, precision in zip(task.queries, of_network.precision_Q, strict=True):
            yield {
                "network": network,
                "query": query.name,
                "path": displayed(task.base.names[query.image]),
                "positives": len(query.positive),
                "junk": len(query.junk),
                "AP": 100 * precision,
            }


def _draw(task: Task, found: Found) -> Pixels:
    """Draw evenly spaced queries, each beside its best-ranked images."""
    num_queries = len(task.queries)
    positions = np.linspace(0, num_queries - 1, min(SHOWN_QUERIES, num_queries))
    rows: list[Shown] = []
    for number in positions.round().astype(int).tolist():
        query = task.queries[number]
        images: list[tuple[Pixels, Verdict]] = []
        for image in found.ranked_QN[number, :SHOWN_RANKS].tolist():
            pixels_HWC = task.base.read(image).pixels_HWC
            images.append((pixels_HWC, _verdict(query, image)))
        rows.append(Shown(task.part(query), found.precision_Q[number], images))
    return draw_retrieved(rows)


def _verdict(query: Query, image: int) -> Verdict:
    """Return how the data set judges an image that was found for a query."""
    if image in query.junk:
        return "junk"
    if image in query.positive:
        return "right"
    return "wrong"


EVALUATION = Evaluation(
    retrieval,
    about="Instance retrieval on Oxford5k or Paris6k, table 5",
    data="dataset",
    fingerprint=data_digest,
    score=Score("mAP"),
)
