"""The region proposal network on our maps."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_iou

from deepcluster_core import seeding
from deepcluster_core.evaluation.voc.detection.proposal_network import (
    RATIOS,
    Anchors,
    Proposing,
    proposal_network,
    propose,
)
from deepcluster_core.models.dense import Place
from tests.margins import SHIFT, above, below

PLACE = Place(16, 15)
SIDES = (32.0, 64.0)


def anchors_of(map_1CHW: Tensor) -> Tensor:
    (anchor_N4,) = Anchors(SIDES, PLACE)(ImageList(map_1CHW, [(1, 1)]), [map_1CHW])
    return anchor_N4


def test_anchors__have_their_areas_and_ratios() -> None:
    left, top, right, bottom = anchors_of(torch.zeros(1, 1, 1, 1)).unbind(dim=1)
    width, height = right - left, bottom - top
    found = {
        (round(side), round(ratio, 3))
        for side, ratio in zip(
            (width * height).sqrt().tolist(), (height / width).tolist(), strict=True
        )
    }
    assert found == {(side, ratio) for side in SIDES for ratio in RATIOS}


def test_anchors__lie_in_the_order_of_the_head_around_what_its_pixels_see() -> None:
    height, width, shapes = 2, 3, len(SIDES) * len(RATIOS)
    y, x, shape = torch.meshgrid(
        torch.arange(height), torch.arange(width), torch.arange(shapes), indexing="ij"
    )
    # What the head says of (shape, y, x), in the order in which torchvision reads it.
    told = (100 * y + 10 * x + shape).permute(2, 0, 1)[None].float()
    order_N, _ = concat_box_prediction_layers([told], [told.repeat_interleave(4, dim=1)])

    anchor_N4 = anchors_of(torch.zeros(1, 1, height, width))

    around_A4 = anchors_of(torch.zeros(1, 1, 1, 1)) - 15.5
    for number, anchor_4 in zip(order_N.flatten().int().tolist(), anchor_N4, strict=True):
        row, column, kind = number // 100, number // 10 % 10, number % 10
        centre = torch.tensor([column, row, column, row]) * 16 + 15.5
        assert torch.allclose(anchor_4, around_A4[kind] + centre)


@pytest.mark.learns
@pytest.mark.parametrize("format", [torch.float32, torch.bfloat16])
def test_propose__learns_to_look_where_the_map_is_bright(format: torch.dtype) -> None:
    size, box = (160, 160), torch.tensor([[50.0, 50, 110, 110]])
    map_1CHW = torch.zeros(1, 4, 9, 9)
    map_1CHW[:, :, 4, 4] = 1  # looks at 79.5
    map_1CHW = map_1CHW.to(format)
    with seeding.torch_seeded(SHIFT):
        rpn = proposal_network(4, PLACE, Proposing(SIDES, 50, 5))
        sgd = torch.optim.SGD(rpn.parameters(), 0.1, momentum=0.9)
        losses: list[float] = []
        for _ in range(150):
            proposals_N4, loss = propose(rpn, map_1CHW, size, learn_N4=box)
            assert not proposals_N4.requires_grad
            assert len(proposals_N4) <= 50
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
    assert below("RPN: loss left", losses[-1] / losses[0], 1 / 4)
    with torch.no_grad():
        proposals_N4, loss = propose(rpn, map_1CHW, size)
    assert loss == 0
    assert len(proposals_N4) <= 5
    assert proposals_N4.min() >= 0
    assert proposals_N4.max() <= 160
    best = box_iou(proposals_N4, box).max().item()
    assert above("RPN: IoU of the best of five", best, 0.7)
