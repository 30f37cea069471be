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
from stages.evaluations.shared.results import RESULTS, Row, write_results
from stages.evaluations.voc_detection_protocol import VocDetectionConfig

NAME = "voc-detection"
DETECTIONS = "detections.parquet"
PICTURE = "detections.png"

SHOWN_PICTURES, COLUMNS = 24, 4
NO_DEVIATION = ("train", "proposals", "cache_bytes", "precision")
"""Keys that are reported elsewhere, or do not change the result."""
ALWAYS_DIFFERENT = (
    "biases learn as fast as weights and decay with them, not twice as fast without decay",
    "where convolutions are trained, all are; not all but AlexNet's first or VGG-16's first four",
    "gradients are clipped",
    "targets of boxes are scaled by constants, not by how they vary",
    "regions are moved by what the network's padding moves its maps",
    "dropout is where the network has it",
)
"""Differences from Fast R-CNN in every result, in either mode."""


def data_digest(data: Path, protocol: VocDetectionConfig) -> str:
    """Return a digest of the data set: its lists; names, sizes and times of pictures; proposals.

    Raises:
        SourceError: the data set is missing, incomplete or damaged, or the protocol asks for
            proposals from a file that does not exist.
    """
    voc_digest = Voc(data).fingerprint_listed(protocol.subsets, "Main")
    files = _proposal_files(data, protocol)
    proposal_digests = None
    if files is not None:
        proposal_digests = [proposals_digest(file) for file in files]
    return digest_of([voc_digest, proposal_digests])


def _proposal_files(data: Path, protocol: VocDetectionConfig) -> list[Path] | None:
    """Return the proposal file of each subset; None if a network proposes regions.

    Raises:
        SourceError: a subset has no proposal file, although the protocol or the other subset
            needs one.
    """
    found = [find_proposals(data, subset) for subset in protocol.subsets]
    if protocol.proposals == "rpn":
        return None
    if protocol.proposals == "auto" and not any(found):
        return None
    # A file for one subset alone is an error, because both must have proposals of one origin.
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
    """Write a row for each class of each network, one for the mean, and all detections.

    Args:
        draft: artifact of the evaluation.
        network: the run's architecture; it must have `Network.halves`.
        protocol: how each network is trained and judged.
        data: folder of Pascal VOC 2007, see `Voc`; it may also hold proposals.
        checkpoint: the epoch's checkpoint; None compares no trained network.
        supervised: .safetensors file of weights trained with true labels, to compare with.

    Raises:
        SourceError: the data set or proposals are missing, incomplete or damaged.
        ConfigError: the network is not a sequence of convolutions followed by two linear layers.
    """
    data_set = _open(data.path, protocol, network.image_size, data.channels)
    networks = ComparedNetworks(network, data.channels, draft.context, checkpoint, supervised)
    # Each network's detections are written once it is judged, so that they survive an interruption.
    tables: dict[str, Path] = {}
    for number, name in enumerate(networks.names):
        tables[name] = draft.folder / f"detections-{number}.part"
    tuning = _Detection(protocol, network.image_size, data_set, tables, draft.context)
    # Train and judge the networks, which takes hours and can be interrupted.
    finished = evaluate_each(draft, networks, tuning)
    # Combine the tables of all networks, and draw the detections of one of them.
    detections = {name: read_table(part).to_pandas() for name, part in tables.items()}
    all_detections = pd.concat(detections.values(), ignore_index=True)
    write_frame(draft.folder / DETECTIONS, all_detections)
    picture_HWC = _draw(data_set, detections[networks.pictured])
    Image.fromarray(picture_HWC).save(draft.folder / PICTURE)
    # Report how the numbers came about.
    split = Split(
        *protocol.subsets,
        classes=len(data_set.task.classes),
        training_images=len(data_set.training.objects),
        judged_images=len(data_set.judged.objects),
    )
    draft.facts |= facts_of(draft, NAME, protocol, finished, split)
    draft.facts |= {"proposals": data_set.proposals, "picture_of": networks.pictured}
    draft.facts["deviations"] = _deviations(protocol, data_set, network, data.channels)
    write_results(draft, finished.rows, protocol)


@dataclass(frozen=True)
class _DataSet:
    task: VocTask
    training: Pictured
    judged: Pictured
    proposals: str
    """Names of the files with the proposals; `rpn` if a network proposes regions."""
    design: Design
    """Design of the detectors for this data set."""


def _open(data: Path, protocol: VocDetectionConfig, image_size: int, channels: int) -> _DataSet:
    """Read lists, annotations and proposals. Pictures are read when they are needed."""
    voc = Voc(data)
    task = open_task(voc, protocol.subsets)
    files = _proposal_files(data, protocol)
    design = protocol.design(image_size, proposes=files is None)

    def pictured(subset: Subset, file: Path | None, limit_bytes: int) -> Pictured:
        def read(row: int) -> Pixels:
            return voc.picture(subset.names[row], channels=channels)

        boxes_of_row = None
        if file is not None:
            boxes = read_proposals(file, subset.names, limit=protocol.max_proposals)
            boxes_of_row = partial(_tensor, boxes)
        images = ImageCache(read, limit_bytes=limit_bytes)
        return Pictured(images, subset.labelled(task.classes), boxes_of_row)

    if files is None:
        training_file, judged_file = None, None
        proposals = "rpn"
    else:
        training_file, judged_file = files
        proposals = ", ".join(str(file.relative_to(data)) for file in files)
    # With frozen convolutions their maps are cached, not the decoded pictures.
    kept_bytes = 0 if design.has_fixed_maps else protocol.cache_bytes
    training = pictured(task.training, training_file, kept_bytes)
    # Each network reads the judged pictures once, so a cache would not help.
    judged = pictured(task.judged, judged_file, 0)
    return _DataSet(task, training, judged, proposals, design)


def _tensor(boxes: list[NDArray[np.float32]], row: int) -> Tensor:
    """Return the proposed boxes of a picture."""
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
        """Store the settings.

        Args:
            protocol: how a network is trained and judged.
            image_size: image size that the networks were built for, pixels.
            data_set: pictures, objects and proposals.
            tables: temporary file for the detections of each network; the commit deletes it.
            context: device, workers and seed.
        """
        super().__init__(
            iterations=protocol.iterations,
            batch_size=protocol.batch_size,
            num_judged=len(data_set.judged.objects),
        )
        self._protocol = protocol
        self._data_set = data_set
        self._tables = tables
        self._device = context.device
        self._feeding = Feeding(
            protocol.scale(image_size),
            protocol.flip,
            batch_size=protocol.batch_size,
            map_bytes=protocol.cache_bytes,
            workers=context.workers,
            # The seed does not depend on the epoch, so that results of epochs are comparable.
            seed=seeding.derive(context.seed, "evaluations", NAME),
        )

    def build(self, network: Network) -> Detector:
        """Return a detector, built on a pretrained network."""
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
        """Return an iterable of the detections in each picture."""
        return judge(model, self._data_set.judged, self._feeding)

    def rows(self, name: str, found: Iterable[Found]) -> Iterator[Row]:
        """Write the detections; return a row for each class and one for the mean."""
        in_pictures = list(found)
        task = self._data_set.task
        table, scores = scored(in_pictures, task.judged, task.classes)
        table.insert(0, "network", name)
        # The table comes before the rows: saved rows imply that the table exists.
        write_frame(self._tables[name], table)
        return _rows(name, in_pictures, scores)


def _rows(network: str, found: list[Found], scores: list[ClassScore]) -> Iterator[Row]:
    """Yield a row for each class and one for their mean, in percent."""
    mean_proposals = float(np.mean([one.num_proposals for one in found]))
    # The mean row holds the mean precision, but the sums of objects and of proposed objects.
    mean_precision = float(np.mean([score.average_precision for score in scores]))
    num_objects = sum(score.objects for score in scores)
    num_proposed = sum(score.proposed for score in scores)
    mean = ClassScore("mean", mean_precision, num_objects, num_proposed)
    for score in (*scores, mean):
        yield {
            "network": network,
            "class": score.name,
            "ap": 100 * score.average_precision,
            "objects": score.objects,
            "proposed": 100 * score.proposed / score.objects,
            "proposals": mean_proposals,
        }


def _draw(data_set: _DataSet, frame: pd.DataFrame) -> Pixels:
    """Draw the detections in evenly spaced judged pictures."""
    judged = data_set.task.judged
    num_judged = len(judged.names)
    num_shown = min(SHOWN_PICTURES, num_judged)
    positions = np.linspace(0, num_judged - 1, num_shown)
    rows = positions.round().astype(int).tolist()
    pictures = [shown(data_set.judged.picture(row), judged, row, frame) for row in rows]
    return draw_detections(pictures, columns=COLUMNS)


def _deviations(
    protocol: VocDetectionConfig, data_set: _DataSet, network: NetworkConfig, channels: int
) -> list[str]:
    """Return a sentence for each difference from Fast R-CNN and from the shipped protocol."""
    found = changed_keys(protocol, shipped_path(NAME, protocol.train), but=NO_DEVIATION)
    found += ALWAYS_DIFFERENT
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
