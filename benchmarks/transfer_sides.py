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
PICTURES = {"voc-classification": 5011, "voc-detection": 5011, "voc-segmentation": 1464}
"""Numbers of pictures that the real data sets train on."""


def write_trees(*, folder: str, count: int) -> None:
    """Write VOC 2007 and 2012 of `count` pictures each to train on, and as many to judge.

    Pictures are photographs of about VOC's sizes; what is said of them is drawn by chance: nothing
    can be learnt here, only timed. From 20 pictures on, each class has an object.
    """
    for year, (task, subsets) in SUBSETS.items():
        tree = Path(folder) / f"VOCdevkit/VOC{year}"
        lists, photographs = tree / "ImageSets" / task, Path(folder) / f"photographs-{year}"
        for part in (lists, *(tree / name for name in ("Annotations", "SegmentationClass"))):
            part.mkdir(parents=True)
        write_pictures(photographs, count=2 * count, seed=year)
        (tree / "JPEGImages").mkdir()
        for path in photographs.glob("*/*.jpg"):
            path.rename(tree / "JPEGImages" / path.name)
        names = sorted(path.stem for path in (tree / "JPEGImages").iterdir())
        for subset, some in zip(subsets, (names[:count], names[count:]), strict=True):
            (lists / f"{subset}.txt").write_text("\n".join(some))
            for number, class_name in enumerate(CLASSES[1:]):
                marks = [
                    f"{name} {1 if row % 20 == number else -1}" for row, name in enumerate(some)
                ]
                (lists / f"{class_name}_{subset}.txt").write_text("\n".join(marks))
            for row, name in enumerate(some):
                _write_truth(tree, name, 1 + row % 20)


def _write_truth(tree: Path, name: str, number: int) -> None:
    """Annotate a picture: an object of a class fills its right half, except for a border."""
    with Image.open(tree / "JPEGImages" / f"{name}.jpg") as picture:
        width, height = picture.size
    left, top, right, bottom = width // 2, 10, width - 10, height - 10
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[top:bottom, left:right] = number
    Image.fromarray(mask_HW).save(tree / "SegmentationClass" / f"{name}.png")
    sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
    shown = f"<object><name>{CLASSES[number]}</name><bndbox>{box}</bndbox></object>"
    (tree / "Annotations" / f"{name}.xml").write_text(f"<annotation>{shown}</annotation>")


def steps(
    *, evaluation: str, data: str, scratch: str, network: dict[str, Any], num_steps: int, count: int
) -> dict[str, float]:
    """Time training for one network after `num_steps`, when kept maps are kept.

    Args:
        evaluation: its name; its shipped protocol.
        data: of `write_trees`.
        scratch: folder for the results.
        network: of the run.
        num_steps: of a first attempt, which meets every picture; as many again are timed.
        count: pictures to train on. Caches are as much smaller as the tree is.
    """
    keep_freed_memory()  # as the command line does
    declared = EVALUATIONS[evaluation]
    written: Any = load_protocol(PROTOCOLS / f"{evaluation}.yaml", declared.protocol, {})
    cache_bytes = written.cache_bytes * count // PICTURES[declared.stage.name]

    def train(iterations: int) -> float:
        out = Path(scratch) / f"{evaluation}-{iterations}"
        shutil.rmtree(out, ignore_errors=True)
        changes = {"iterations": iterations, "cache_bytes": cache_bytes}
        device = "cuda" if torch.cuda.is_available() else "cpu"
        declared.run(
            network=NetworkConfig.model_validate(network),
            protocol=load_protocol(PROTOCOLS / f"{evaluation}.yaml", declared.protocol, changes),
            data=Path(data),
            checkpoint=None,
            supervised=None,
            channels=3,
            out=out,
            context=Context(seed=0, epoch=0, device=device, workers=num_cores()),
        )
        return read_manifest(out).facts["seconds_per_step"]["random"] * iterations

    first_s = train(num_steps)
    step_s = (train(2 * num_steps) - first_s) / num_steps
    return {"step_s": step_s, "hours": step_s * written.iterations / 3600}
