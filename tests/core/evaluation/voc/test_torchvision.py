"""The layout of the drawn trees, and our reading of it, against torchvision's reader of VOC."""

from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import VOCDetection, VOCSegmentation

from deepcluster_core.evaluation.voc.dataset import Voc
from tests.support.voc_tree import write_voc, write_voc2012

SIZES = {"train": 12, "val": 4, "test": 12}


def read_box(found: dict[str, Any]) -> tuple[float, ...]:
    """Return left, top, right, bottom from 0 of a box that counts from 1."""
    left, top, right, bottom = (float(found[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
    return left - 1, top - 1, right, bottom


def test_voc__has_the_objects_and_pictures_that_torchvision_reads(tmp_path: Path) -> None:
    write_voc(tmp_path, sizes=SIZES)
    voc, num_difficult = Voc(tmp_path), 0
    for subset in ("train", "val", "trainval", "test"):
        theirs: Any = VOCDetection(str(tmp_path), year="2007", image_set=subset)
        names = voc.listed(subset, "Main")
        assert len(theirs) == len(names)
        for name, (picture, target) in zip(names, theirs, strict=True):
            found = target["annotation"]["object"]
            objects = [(o["name"], read_box(o["bndbox"]), o["difficult"] == "1") for o in found]
            assert [(o.name, o.box, o.difficult) for o in voc.objects(name)] == objects
            assert np.array_equal(voc.picture(name, channels=3), np.asarray(picture))
            num_difficult += sum(is_difficult for _, _, is_difficult in objects)
    assert num_difficult > 0


def test_voc__has_the_masks_that_torchvision_reads(tmp_path: Path) -> None:
    write_voc2012(tmp_path, sizes={"train": 12, "val": 4})
    voc = Voc(tmp_path, 2012)
    for subset in ("train", "val", "trainval"):
        theirs: Any = VOCSegmentation(str(tmp_path), year="2012", image_set=subset)
        names = voc.listed(subset, "Segmentation")
        assert len(theirs) == len(names)
        for name, (picture, mask) in zip(names, theirs, strict=True):
            assert mask.mode == "P"
            assert np.array_equal(voc.mask(name), np.asarray(mask))
            assert np.array_equal(voc.picture(name, channels=3), np.asarray(picture))
