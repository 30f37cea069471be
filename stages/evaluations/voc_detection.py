"""Voc-detection: Pascal VOC 2007, networks -> average precision of each class. Tables 2, 3, 4."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft, new_artifact
from deepcluster_core.artifacts.manifest import Stage, digest_of
from deepcluster_core.artifacts.tables import read_table, write_frame
from deepcluster_core.context import Context
from deepcluster_core.data.decode import Pixels
from deepcluster_core.data.kept import Kept
from deepcluster_core.data.proposals import (
    find_proposals,
    need_proposals,
    proposals_digest,
    read_proposals,
)
from deepcluster_core.data.voc import Voc
from deepcluster_core.evaluation.detection.detector import Detector
from deepcluster_core.evaluation.detection.drawing import draw_detections
from deepcluster_core.evaluation.detection.fitting import Feeding, Found, Pictured, fit, judge
from deepcluster_core.evaluation.detection.scoring import ClassScore, scored, shown
from deepcluster_core.evaluation.detection.voc_task import Subset, VocTask, open_task
from deepcluster_core.interrupts import held_back
from deepcluster_core.memory import keep_freed_memory
from deepcluster_core.models import Network, NetworkConfig
from deepcluster_core.precision import computed_in
from stages.evaluations.compared import compared, num_compared, supervised_digest
from stages.evaluations.deviations import changed_keys
from stages.evaluations.protocol import load_protocol
from stages.evaluations.results import RESULTS, Row, write_results
from stages.evaluations.saves import Saves
from stages.evaluations.voc_detection_protocol import SHIPPED, VocDetectionConfig

DETECTIONS = "detections.parquet"
PICTURE = "detections.png"

STAGE = Stage(
    name="voc-detection",
    version=1,
    kind="evaluations/voc-detection",
    files=(RESULTS, DETECTIONS, PICTURE),
    reads=("network", "protocol"),
)
CONFIG = VocDetectionConfig

SHOWN_PICTURES, COLUMNS = 24, 4
NO_DEVIATION = ("train", "select", "proposals", "cache_bytes", "precision")
"""Keys that are told otherwise, or do not change the result."""
ALWAYS_OTHERWISE = (
    "biases learn as fast as weights and decay with them, not twice as fast without decay",
    "all convolutions are trained where any is; Fast R-CNN leaves AlexNet's first layer and "
    "VGG-16's first four",
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


def run(  # noqa: PLR0913  an evaluation takes its inputs by name
    *,
    network: NetworkConfig,
    protocol: VocDetectionConfig,
    data: Path,
    checkpoint: Path | None,
    supervised: Path | None,
    channels: int,
    out: Path,
    context: Context,
) -> None:
    """Write a row for each class of each network, and one for the mean; and all detections.

    Args:
        network: of the run: alexnet, vgg16 or smallnet.
        protocol: how it is trained and judged.
        data: folder of Pascal VOC 2007, see `Voc`; proposals are looked for in it.
        checkpoint: of the epoch; None compares no trained network.
        supervised: a .safetensors file of weights of the same network, trained with labels.
        channels: what the network reads: 3, or 1 for pictures in grey.
        out: folder of the artifact.
        context: seed, epoch and place.

    Raises:
        SourceError: the data set or proposals are missing, incomplete or damaged.
        ConfigError: the network is no row of convolutions with two linear layers behind it.
    """
    with new_artifact(
        STAGE,
        out,
        config={"network": network, "protocol": protocol},
        inputs={
            "data": data_digest(data, protocol),
            "checkpoint": checkpoint,
            "supervised": supervised and supervised_digest(supervised),
        },
        context=context,
    ) as draft:
        keep_freed_memory()
        data_set = _open(data, protocol, channels)
        networks = compared(
            network,
            channels=channels,
            seed=context.seed,
            checkpoint=checkpoint,
            epoch=context.epoch,
            supervised=supervised,
        )
        evaluation = _Evaluation(
            protocol,
            network.image_size,
            data_set,
            draft,
            context,
            num_networks=num_compared(checkpoint, supervised),
        )
        with held_back() as held:
            saves = Saves(draft, context.save_every, held)
            names = [evaluation.evaluate(name, model, saves) for name, model in networks]
        frame = evaluation.detections()
        write_frame(out / DETECTIONS, frame)
        drawn = names[0 if checkpoint is None else 1]
        Image.fromarray(_drawn(data_set, frame.query("network == @drawn"))).save(out / PICTURE)
        draft.facts |= _facts(protocol, data_set, saves, context) | {"picture_of": drawn}
        draft.facts["deviations"] = _deviations(protocol, data_set, network, channels)
        write_results(draft, saves.rows, protocol)


@dataclass(frozen=True)
class _DataSet:
    task: VocTask
    training: Pictured
    judged: Pictured
    proposals: str
    """The files that they are read from, or rpn."""


def _open(data: Path, protocol: VocDetectionConfig, channels: int) -> _DataSet:
    """Read lists, annotations and proposals; pictures are read when they are asked for."""
    voc = Voc(data)
    task = open_task(voc, protocol.subsets)
    files = _files_of_proposals(data, protocol)

    def pictured(subset: Subset, file: Path | None, limit_bytes: int) -> Pictured:
        def read(row: int) -> Pixels:
            return voc.picture(subset.names[row], channels=channels)

        boxes = file and read_proposals(file, subset.names, limit=protocol.max_proposals)
        return Pictured(
            Kept(read, limit_bytes=limit_bytes),
            subset.labelled(task.classes),
            None if boxes is None else partial(_tensor, boxes),
        )

    of_training, of_judged = files or (None, None)
    keeps_pictures = not protocol.design(224, proposes=False).has_fixed_maps
    return _DataSet(
        task,
        pictured(task.training, of_training, protocol.cache_bytes * keeps_pictures),
        pictured(task.judged, of_judged, 0),  # each is asked for once by each network
        "rpn" if files is None else ", ".join(str(file.relative_to(data)) for file in files),
    )


def _tensor(boxes: list[NDArray[np.float32]], row: int) -> Tensor:
    return torch.from_numpy(boxes[row])


class _Evaluation:
    """Trains and judges one network after another on the same pictures."""

    def __init__(
        self,
        protocol: VocDetectionConfig,
        image_size: int,
        data_set: _DataSet,
        draft: Draft,
        context: Context,
        *,
        num_networks: int,
    ) -> None:
        """Do nothing yet; `image_size` is what the network was made for, pixels."""
        self._protocol, self._data_set = protocol, data_set
        self._draft, self._context = draft, context
        self._design = protocol.design(image_size, proposes=data_set.proposals == "rpn")
        self._feeding = Feeding(
            protocol.scale(image_size),
            protocol.flip,
            batch_size=protocol.batch_size,
            map_bytes=protocol.cache_bytes,
            workers=context.workers,
            # The same in every epoch.
            seed=seeding.derive(context.seed, "evaluations", STAGE.name),
        )
        self._done = 0
        self._of_one = protocol.iterations * protocol.batch_size + len(data_set.judged.objects)
        self._num_networks = num_networks
        self._num_begun = 0

    def evaluate(self, name: str, network: Network, saves: Saves) -> str:
        """Put the rows of a network into `saves`, unless they are there; return its name."""
        self._num_begun += 1
        if any(row["network"] == name for row in saves.rows):
            self._went(self._of_one)
            return name
        model = Detector(
            network,
            self._design,
            num_classes=len(self._data_set.task.classes),
            device=self._context.device,
            precision=self._protocol.precision,
            seed=seeding.derive(self._feeding.seed, "network"),
        )
        self._train(name, model, saves)
        task, found = self._data_set.task, self._judge(name, model, saves)
        frame, scores = scored(found, task.judged, task.classes)
        frame.insert(0, "network", name)
        write_frame(self._part(self._num_begun), frame)  # before its rows are: they say it is there
        saves.finished(list(_rows(name, found, scores)))
        return name

    def detections(self) -> pd.DataFrame:
        """Return those of all networks, finished in whatever attempt."""
        numbers = range(1, self._num_networks + 1)
        parts = [read_table(self._part(number)).to_pandas() for number in numbers]
        return pd.concat(parts, ignore_index=True)

    def _part(self, number: int) -> Path:
        """Return where detections of a network wait; files of this ending go with the commit."""
        return self._draft.folder / f"detections-{number}.part"

    def _train(self, name: str, model: Detector, saves: Saves) -> None:
        first, begun_s = saves.resume(name, model), time.perf_counter()
        self._went(first * self._protocol.batch_size)

        def after_step(step: int) -> None:
            self._went(self._protocol.batch_size)
            saves.seconds_per_step[name] = (time.perf_counter() - begun_s) / (step - first)
            saves.reached(name, model, step)

        fit(
            model,
            self._data_set.training,
            self._feeding,
            iterations=self._protocol.iterations,
            start=first,
            after_step=after_step,
        )

    def _judge(self, name: str, model: Detector, saves: Saves) -> list[Found]:
        found: list[Found] = []
        for one in judge(model, self._data_set.judged, self._feeding):
            found.append(one)
            self._went(1)
            saves.end_if_told(name, model, self._protocol.iterations)
        return found

    def _went(self, num_pictures: int) -> None:
        self._done += num_pictures
        self._context.progress(self._done, self._num_networks * self._of_one)


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


def _facts(
    protocol: VocDetectionConfig, data_set: _DataSet, saves: Saves, context: Context
) -> dict[str, Any]:
    """Return what the table does not say."""
    paper = load_protocol(SHIPPED[protocol.train], VocDetectionConfig, {})
    seconds_per_step = saves.seconds_per_step
    return {
        "train": protocol.train,
        "trained_on": protocol.subsets[0],
        "judged_on": protocol.subsets[1],
        "classes": len(data_set.task.classes),
        "training_images": len(data_set.training.objects),
        "judged_images": len(data_set.judged.objects),
        "proposals": data_set.proposals,
        "seconds_per_step": {name: round(s, 5) for name, s in seconds_per_step.items()},
        # What all networks would take to train in the shipped number of steps, on this machine.
        "hours_at_full_length": round(sum(seconds_per_step.values()) * paper.iterations / 3600, 2),
        "precision": computed_in(context.device, protocol.precision),
    }


def _deviations(
    protocol: VocDetectionConfig, data_set: _DataSet, network: NetworkConfig, channels: int
) -> list[str]:
    """Say what differs from Fast R-CNN, and from its numbers as the shipped file has them."""
    found = changed_keys(protocol, SHIPPED[protocol.train], but=NO_DEVIATION)
    found += ALWAYS_OTHERWISE
    if data_set.proposals == "rpn":
        found.append("regions of a network trained with the detector instead of selective search")
    elif "selective_search_data" not in data_set.proposals:
        found.append("regions of a file of one's own instead of selective search")
    shorter = protocol.scale(network.image_size).shorter_side
    if protocol.shorter_side == "auto" and shorter != 600:
        found.append(f"pictures of a shorter side of {shorter} px instead of 600")
    if channels != 3:
        found.append(f"pictures of {channels} channels instead of 3")
    return found
