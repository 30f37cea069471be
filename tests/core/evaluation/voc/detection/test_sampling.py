"""Regions to learn from: how many of which kind, and what they are of."""

import torch
from torchvision.ops import box_iou

from deepcluster_core import seeding
from deepcluster_core.evaluation.voc.detection.sampling import (
    Objects,
    Sample,
    Sampling,
    sample_regions,
)

FAST_RCNN = Sampling(regions=64, foreground=0.25, object_iou=0.5, background_iou=0.1)
OBJECTS = Objects(torch.tensor([[0.0, 0, 40, 40], [60, 60, 100, 100]]), torch.tensor([3, 1]))


def proposals(count: int = 3000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(count, 2, generator=generator) * 80
    return torch.cat((low, low + 5 + torch.rand(count, 2, generator=generator) * 40), dim=1)


def sample(sampling: Sampling = FAST_RCNN, seed: int = 1, count: int = 3000) -> Sample:
    with seeding.torch_seeded(seed):
        return sample_regions(proposals(count), OBJECTS, sampling)


def test_sample_regions__a_quarter_is_of_objects() -> None:
    taken = sample()
    iou_R, object_R = box_iou(taken.box_R4, OBJECTS.box_O4).max(dim=1)
    assert len(taken.label_R) == 64
    assert (taken.label_R > 0).sum() == 16
    assert (iou_R[:16] >= 0.5).all()
    assert torch.equal(taken.label_R[:16], OBJECTS.label_O[object_R[:16]])
    assert torch.equal(taken.target_R4, OBJECTS.box_O4[object_R])
    assert (taken.label_R[16:] == 0).all()
    assert ((iou_R[16:] >= 0.1) & (iou_R[16:] < 0.5)).all()
    assert len(taken.box_R4.unique(dim=0)) == 64, "none twice"


def test_sample_regions__background_takes_the_place_of_objects_that_lack() -> None:
    taken = sample(Sampling(64, 0.25, object_iou=0.99, background_iou=0.0))
    assert (taken.label_R > 0).sum() == 2, "the objects themselves are regions"
    assert len(taken.label_R) == 64


def test_sample_regions__learns_from_the_objects_alone_where_nothing_is_proposed() -> None:
    taken = sample(count=0)
    assert sorted(taken.label_R.tolist()) == [1, 3]
    assert torch.equal(taken.box_R4, taken.target_R4)


def test_sample_regions__is_another_one_for_another_seed() -> None:
    assert torch.equal(sample(seed=1).box_R4, sample(seed=1).box_R4)
    assert not torch.equal(sample(seed=1).box_R4, sample(seed=2).box_R4)
