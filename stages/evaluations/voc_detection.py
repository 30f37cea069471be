"""Voc-detection: Pascal VOC 2007, networks -> average precision of each class. Tables 2, 3, 4."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.manifest import digest_of
from deepcluster_core.artifacts.tables import read_table, write_frame
from deepcluster_core.context import Context
from deepcluster_core.data.decode import Pixels
from deepcluster_core.evaluation.voc.dataset import Voc
from deepcluster_core.evaluation.voc.detection.detector import Design, Detector
from deepcluster_core.evaluation.voc.detection.drawing import draw_detections
from deepcluster_core.evaluation.voc.detection.fitting import Feeding, Found, Pictured, fit, judge
from deepcluster_core.evaluation.voc.detection.proposal_files import (
    find_proposals,
    need_proposals,
    proposals_digest,
    read_proposals,
)
from deepcluster_core.evaluation.voc.detection.scoring import ClassScore, scored, shown
from deepcluster_core.evaluation.voc.detection.task import Subset, VocTask, open_task
from deepcluster_core.evaluation.voc.image_cache import ImageCache
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.stage import External, stage
from stages.evaluations.declaration import Evaluation, Score
from stages.evaluations.shared.deviations import changed_keys
from stages.evaluations.shared.fine_tuning import (
    FineTuning,
    Fit,
    Split,
    evaluate_each,
    facts_of,
    shipped_path,
)
from stages.evaluations.shared.networks import ComparedNetworks
from stages.evaluations.shared.protocol import load_protocol
from stages.evaluations.shared.results import RESULTS, Row, write_results
from stages.evaluations.voc_detection_protocol import VocDetectionConfig

NAME = "voc-detection"
DETECTIONS = "detections.parquet"
PICTURE = "detections.png"

SHOWN_PICTURES, COLUMNS = 24, 4
NO_DEVIATION = ("train", "proposals", "cache_bytes", "precision")
"""Keys that are told otherwise, or do not change the result."""
ALWAYS_OTHERWISE = (
    "biases learn as fast as weights and decay with them, not twice as fast without decay",
    "where convolutions are trained, all are; not all but AlexNet's first or VGG-16's first four",
    "gradients are clipped",
    "targets of boxes are scaled by constants, not by how they vary",
    "regions are moved by what the network's padding moves its maps",
    "dropout is where the network has it",
)
"""Of Fast R-CNN, in either mode."""


def data_digest(data: Path, protocol: VocDetectionConfig) -> str:
    """Return a digest of what is read: lists, names, sizes and times of pictures; proposals.

    Raises:
        SourceError: the data set is missing, incomplete or damaged, or it has no proposals where
            they are asked for.
    """
    of_voc = Voc(data).fingerprint_listed(protocol.subsets, "Main")
    files = _files_of_proposals(data, protocol)
    return digest_of([of_voc, None if files is None else [proposals_digest(f) for f in files]])


def _files_of_proposals(data: Path, protocol: VocDetectionConfig) -> list[Path] | None:
    """Return a file for each subset; None: a network proposes.

    Raises:
        SourceError: there is none, or one for a single subset.
    """
    found = [find_proposals(data, subset) for subset in protocol.subsets]
    if protocol.proposals == "rpn" or (protocol.proposals == "auto" and not any(found)):
        return None
    return [need_proposals(data, subset) for subset in protocol.subsets]


@stage(name=NAME, version=1, kind=f"evaluations/{NAME}", files=(RESULTS, DETECTIONS, PICTURE))
def voc_detection(
    draft: Draft,
    network: NetworkConfig,
    protocol: VocDetectionConfig,
    /,
    *,
    data: External,
    checkpoint: Path | None,
    supervised: External | None,
) -> None:
    """Write a row for each class of each network, and one for the mean; and all detections.

    Args:
        network: of the run; it must have `Network.halves`.
        protocol: how it is trained and judged.
        data: folder of Pascal VOC 2007, see `Voc`; proposals are looked for in it.
        checkpoint: of the epoch; None compares no trained network.
        supervised: a .safetensors file of weights of the same network, trained with labels.

    Raises:
        SourceError: the data set or proposals are missing, incomplete or damaged.
        ConfigError: the network is no row of convolutions with two linear layers behind it.
    """
    data_set = _open(data.path, protocol, network.image_size, data.channels)
    networks = ComparedNetworks(network, data.channels, draft.context, checkpoint, supervised)
    tables = {
        name: draft.folder / f"detections-{number}.part"
        for number, name in enumerate(networks.names)
    }
    tuning = _Detection(protocol, network.image_size, data_set, tables, draft.context)
    finished = evaluate_each(draft, networks, tuning)
    detections = {name: read_table(part).to_pandas() for name, part in tables.items()}
    write_frame(draft.folder / DETECTIONS, pd.concat(detections.values(), ignore_index=True))
    picture_HWC = _drawn(data_set, detections[networks.pictured])
    Image.fromarray(picture_HWC).save(draft.folder / PICTURE)
    split = Split(
        *protocol.subsets,
        classes=len(data_set.task.classes),
        training_images=len(data_set.training.objects),
        judged_images=len(data_set.judged.objects),
    )
    shipped = load_protocol(shipped_path(NAME, protocol.train), VocDetectionConfig, {})
    draft.facts |= facts_of(draft, protocol, finished, split, full_iterations=shipped.iterations)
    draft.facts |= {"proposals": data_set.proposals, "picture_of": networks.pictured}
    draft.facts["deviations"] = _deviations(protocol, data_set, network, data.channels)
    write_results(draft, finished.rows, protocol)


@dataclass(frozen=True)
class _DataSet:
    task: VocTask
    training: Pictured
    judged: Pictured
    proposals: str
    """The files that they are read from, or rpn."""
    design: Design
    """Of a detector for it."""


def _open(data: Path, protocol: VocDetectionConfig, image_size: int, channels: int) -> _DataSet:
    """Read lists, annotations and proposals; pictures are read when they are asked for."""
    voc = Voc(data)
    task = open_task(voc, protocol.subsets)
    files = _files_of_proposals(data, protocol)
    design = protocol.design(image_size, proposes=files is None)

    def pictured(subset: Subset, file: Path | None, limit_bytes: int) -> Pictured:
        def read(row: int) -> Pixels:
            return voc.picture(subset.names[row], channels=channels)

        boxes = file and read_proposals(file, subset.names, limit=protocol.max_proposals)
        return Pictured(
            ImageCache(read, limit_bytes=limit_bytes),
            subset.labelled(task.classes),
            None if boxes is None else partial(_tensor, boxes),
        )

    of_training, of_judged = files or (None, None)
    kept_bytes = 0 if design.has_fixed_maps else protocol.cache_bytes
    return _DataSet(
        task,
        pictured(task.training, of_training, kept_bytes),
        pictured(task.judged, of_judged, 0),  # each is asked for once by each network
        "rpn" if files is None else ", ".join(str(file.relative_to(data)) for file in files),
        design,
    )


def _tensor(boxes: list[NDArray[np.float32]], row: int) -> Tensor:
    return torch.from_numpy(boxes[row])


class _Detection(FineTuning[Detector, Found]):
    """Trains and judges networks on the same pictures."""

    def __init__(
        self,
        protocol: VocDetectionConfig,
        image_size: int,
        data_set: _DataSet,
        tables: Mapping[str, Path],
        context: Context,
    ) -> None:
        """Take the settings.

        Args:
            protocol: how a network is trained and judged.
            image_size: what the networks were made for, pixels.
            data_set: pictures, objects and proposals.
            tables: files for the detections of each network; they go with the commit.
            context: device, workers and seed.
        """
        super().__init__(
            iterations=protocol.iterations,
            batch_size=protocol.batch_size,
            num_judged=len(data_set.judged.objects),
        )
        self._protocol, self._data_set, self._tables = protocol, data_set, tables
        self._device = context.device
        self._feeding = Feeding(
            protocol.scale(image_size),
            protocol.flip,
            batch_size=protocol.batch_size,
            map_bytes=protocol.cache_bytes,
            workers=context.workers,
            seed=seeding.derive(context.seed, "evaluations", NAME),  # the same in every epoch
        )

    def build(self, network: Network) -> Detector:
        """Return a detector on the network."""
        return Detector(
            network,
            self._data_set.design,
            num_classes=len(self._data_set.task.classes),
            device=self._device,
            precision=self._protocol.precision,
            seed=seeding.derive(self._feeding.seed, "network"),
        )

    def fitting(self, model: Detector) -> Fit:
        """Return the function that trains the model."""
        return partial(
            fit, model, self._data_set.training, self._feeding, iterations=self.iterations
        )

    def judge(self, model: Detector) -> Iterable[Found]:
        """Return the detections in each picture."""
        return judge(model, self._data_set.judged, self._feeding)

    def rows(self, name: str, found: Iterable[Found]) -> Iterator[Row]:
        """Return the average precision of each class, and their mean; write the detections."""
        in_pictures, task = list(found), self._data_set.task
        table, scores = scored(in_pictures, task.judged, task.classes)
        table.insert(0, "network", name)
        write_frame(self._tables[name], table)  # before the rows, which say that it is there
        return _rows(name, in_pictures, scores)


def _rows(network: str, found: list[Found], scores: list[ClassScore]) -> Iterator[Row]:
    """Yield a row for each class, and one for their mean; percent."""
    proposals = float(np.mean([one.num_proposals for one in found]))
    objects = sum(score.objects for score in scores)
    of_mean = ClassScore(
        "mean",
        float(np.mean([score.average_precision for score in scores])),
        objects,
        sum(score.proposed for score in scores),
    )
    for score in (*scores, of_mean):
        yield {
            "network": network,
            "class": score.name,
            "ap": 100 * score.average_precision,
            "objects": score.objects,
            "proposed": 100 * score.proposed / score.objects,
            "proposals": proposals,
        }


def _drawn(data_set: _DataSet, frame: pd.DataFrame) -> Pixels:
    """Return a picture of some of the judged pictures, spread evenly."""
    judged = data_set.task.judged
    count = min(SHOWN_PICTURES, len(judged.names))
    rows = np.linspace(0, len(judged.names) - 1, count).round().astype(int).tolist()
    pictures = [shown(data_set.judged.picture(row), judged, row, frame) for row in rows]
    return draw_detections(pictures, columns=COLUMNS)


def _deviations(
    protocol: VocDetectionConfig, data_set: _DataSet, network: NetworkConfig, channels: int
) -> list[str]:
    """Say what differs from Fast R-CNN, and from its numbers as the shipped file has them."""
    found = changed_keys(protocol, shipped_path(NAME, protocol.train), but=NO_DEVIATION)
    found += ALWAYS_OTHERWISE
    if data_set.proposals == "rpn":
        found.append(
            "regions are not of selective search, but of Faster R-CNN's network, trained with the "
            "detector on its maps; a convolution and two layers of its own, and 6,000 boxes before "
            "its suppression in training, too"
        )
    elif "selective_search_data" not in data_set.proposals:
        found.append("regions are not of selective search, but of a file of one's own")
    shorter = protocol.scale(network.image_size).shorter_side
    if protocol.shorter_side == "auto" and shorter != 600:
        found.append(f"pictures of a shorter side of {shorter} px instead of 600")
    if channels != 3:
        found.append(f"pictures of {channels} channels instead of 3")
    return found


EVALUATION = Evaluation(
    voc_detection,
    about="Pascal VOC 2007 detection by Fast R-CNN, fc6-8 trained, tables 2 to 4",
    data="dataset",
    fingerprint=data_digest,
    variants={"all": "Pascal VOC 2007 detection by Fast R-CNN, every layer trained, tables 2 to 4"},
    score=Score("ap", where={"class": "mean"}),
)
