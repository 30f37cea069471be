"""The sides of `benchmarks.transfer`: a Pascal VOC of photographs, and some steps on it."""

# ruff: noqa: E402  the environment is prepared before torch is imported, as in every run
from flows.engine import environment

environment.prepare()

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import num_cores
from benchmarks.pictures import write_pictures
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.context import Context
from deepcluster_core.evaluation.voc.dataset import CLASSES
from deepcluster_core.memory import keep_freed_memory
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.runs.evaluations import EVALUATIONS

SUBSETS = {2007: ("Main", ("trainval", "test")), 2012: ("Segmentation", ("train", "val"))}
"""Folder of the lists, and the subsets to train and to evaluate on, of each year."""
NUM_CLASSES = len(CLASSES) - 1
"""Number of classes without the background, which is the first of `CLASSES`."""
PICTURES = {"voc-classification": 5011, "voc-detection": 5011, "voc-segmentation": 1464}
"""Numbers of pictures that the real data sets train on."""


def write_trees(*, folder: str, count: int) -> None:
    """Write VOC 2007 and 2012 with `count` pictures each to train on, and as many to evaluate on.

    Pictures are photographs of about VOC's sizes, and their annotations do not fit them: nothing
    can be learnt here, only timed. With 20 pictures or more, each class has an object.
    """
    for year, (task, subsets) in SUBSETS.items():
        tree = Path(folder) / f"VOCdevkit/VOC{year}"
        lists = tree / "ImageSets" / task
        for part in (lists, tree / "Annotations", tree / "SegmentationClass"):
            part.mkdir(parents=True)
        names = _write_photographs(tree / "JPEGImages", count=2 * count, seed=year)
        parts = (names[:count], names[count:])
        for subset, some_names in zip(subsets, parts, strict=True):
            _write_lists(lists, subset, some_names)
            for row, name in enumerate(some_names):
                _write_truth(tree, name, 1 + row % NUM_CLASSES)


def _write_photographs(folder: Path, *, count: int, seed: int) -> list[str]:
    """Write photographs to a new folder, without subfolders; return their sorted names."""
    made = folder.with_name("photographs")
    write_pictures(made, count=count, seed=seed)
    folder.mkdir()
    names: list[str] = []
    for path in made.glob("*/*.jpg"):
        path.rename(folder / path.name)
        names.append(path.stem)
    shutil.rmtree(made)
    return sorted(names)


def _write_lists(lists: Path, subset: str, names: list[str]) -> None:
    """Write the list of a subset, and the marks of each class; picture i has class i % 20."""
    (lists / f"{subset}.txt").write_text("\n".join(names))
    for number, class_name in enumerate(CLASSES[1:]):
        marks: list[str] = []
        for row, name in enumerate(names):
            mark = 1 if row % NUM_CLASSES == number else -1
            marks.append(f"{name} {mark}")
        path = lists / f"{class_name}_{subset}.txt"
        path.write_text("\n".join(marks))


def _write_truth(tree: Path, name: str, number: int) -> None:
    """Annotate a picture: an object of a class fills its right half, except for a border."""
    with Image.open(tree / "JPEGImages" / f"{name}.jpg") as picture:
        width, height = picture.size
    left, right = width // 2, width - 10
    top, bottom = 10, height - 10
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[top:bottom, left:right] = number
    Image.fromarray(mask_HW).save(tree / "SegmentationClass" / f"{name}.png")
    # VOC counts pixels from 1 and includes the last one.
    sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
    corners = [f"<{side}>{value}</{side}>" for side, value in sides.items()]
    box = "".join(corners)
    described = f"<object><name>{CLASSES[number]}</name><bndbox>{box}</bndbox></object>"
    text = f"<annotation>{described}</annotation>"
    (tree / "Annotations" / f"{name}.xml").write_text(text)


def steps(
    *, evaluation: str, data: str, scratch: str, network: dict[str, Any], num_steps: int, count: int
) -> dict[str, float]:
    """Time steps of training after the first `num_steps`, when caches are full.

    Args:
        evaluation: name of the evaluation and of its shipped protocol.
        data: folder that `write_trees` has written.
        scratch: folder for the results.
        network: settings of the network.
        num_steps: number of steps of a first training, which reads every picture; a second training
            is twice as long, and the difference is measured.
        count: number of pictures to train on; caches are smaller in the same proportion.
    """
    keep_freed_memory()  # as the command line does
    declared = EVALUATIONS[evaluation]
    path = PROTOCOLS / f"{evaluation}.yaml"
    shipped: Any = load_protocol(path, declared.protocol, {})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    context = Context(seed=0, epoch=0, device=device, workers=num_cores())
    cache_bytes = shipped.cache_bytes * count // PICTURES[declared.stage.name]

    def train(iterations: int) -> float:
        """Return the seconds of a training from the start."""
        out = Path(scratch) / f"{evaluation}-{iterations}"
        shutil.rmtree(out, ignore_errors=True)  # an earlier turn has written it
        changes = {"iterations": iterations, "cache_bytes": cache_bytes}
        declared.run(
            network=NetworkConfig.model_validate(network),
            protocol=load_protocol(path, declared.protocol, changes),
            data=Path(data),
            checkpoint=None,
            supervised=None,
            channels=3,
            out=out,
            context=context,
        )
        facts = read_manifest(out).facts
        return facts["seconds_per_step"]["random"] * iterations

    first_s = train(num_steps)
    second_s = train(2 * num_steps)
    step_s = (second_s - first_s) / num_steps
    return {"step_s": step_s, "hours": step_s * shipped.iterations / 3600}
