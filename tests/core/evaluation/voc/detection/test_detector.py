"""Fast R-CNN on smallnet: its loss, what it trains, and what it keeps of what it finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.voc.detection.detector import (
    Chosen,
    Design,
    Detector,
    Example,
    region_loss,
)
from deepcluster_core.evaluation.voc.detection.proposal_network import Proposing
from deepcluster_core.evaluation.voc.detection.sampling import Objects
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from tests.support.detection import DESIGN

PICTURE_HWC = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
OBJECTS = Objects(torch.tensor([[4.0, 4, 30, 40]]), torch.tensor([2]))
PROPOSALS = torch.tensor([[5.0, 3, 31, 42], [0, 0, 64, 48], [40, 10, 60, 30], [20, 5, 50, 45]])


def build(name: str = "smallnet") -> Network:
    config = NetworkConfig(name=name, image_size=32, dropout=0.5)
    return build_network(config, channels=3, seed=1)


def detector(design: Design = DESIGN, *, network: Network | None = None, seed: int = 5) -> Detector:
    return Detector(
        network or build(), design, num_classes=2, device="cpu", precision="float32", seed=seed
    )


def example(model: Detector, proposals_P4: Tensor | None = PROPOSALS) -> Example:
    return Example(model.map(PICTURE_HWC, flipped=False), (48, 64), OBJECTS, proposals_P4)


def learnt(design: Design, *, steps: int = 3, seed: int = 5) -> Detector:
    """Return a detector after some steps."""
    model = detector(design, seed=seed)
    for step in range(steps):
        model.learn([example(model, None if design.proposing else PROPOSALS)], step)
    return model


def changes(design: Design) -> dict[str, float]:
    """Return the greatest change of each of the network's weights in a few steps."""
    network = build()
    model = detector(design, network=network)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for step in range(3):
        model.learn([example(model)], step)
    after = dict(network.named_parameters())
    return {name: (after[name] - before[name]).abs().max().item() for name in before}


def test_region_loss__by_hand() -> None:
    score_RC = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]))
    move_RX = torch.zeros(2, 12)
    move_RX[1, 8:] = torch.tensor([0.5, -3.0, 0.0, 0.0])
    label_R = torch.tensor([0, 2])
    target_R4 = torch.tensor([[9.0, 9, 9, 9], [0, 0, 0, 0]])  # of the background nothing is asked
    classes = -(np.log(0.5) + np.log(0.75)) / 2
    boxes = (0.5 * 0.5**2 + (3 - 0.5)) / 2
    loss = region_loss(score_RC, move_RX, label_R, target_R4)
    assert loss.item() == pytest.approx(classes + boxes)


def test_learn__fc6_8_leaves_the_convolutions_alone() -> None:
    change = changes(DESIGN)
    assert {name for name, by in change.items() if by > 0} == {n for n in change if ".fc" in n}


def test_learn__all_trains_everything() -> None:
    # A convolution's bias is cancelled by nothing here: the statistics behind it stay.
    assert min(changes(replace(DESIGN, part="all", train_batch_norm=True)).values()) > 0


def test_learn__all_without_batch_norm_leaves_its_scales() -> None:
    change = changes(replace(DESIGN, part="all"))
    assert {name for name, by in change.items() if by == 0} == {n for n in change if ".bn." in n}


def test_learn__trains_the_new_layers() -> None:
    before, after = (learnt(DESIGN, steps=steps).state() for steps in (0, 3))
    for name in ("score.weight", "score.bias", "box.weight", "box.bias"):
        assert not torch.equal(before[name], after[name])


def test_learn__depends_on_seed_and_step_alone() -> None:
    states = [learnt(DESIGN, seed=seed).state() for seed in (5, 5, 6)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["score.weight"], states[2]["score.weight"])


def test_learn__goes_on_from_a_saved_state() -> None:
    design = replace(DESIGN, proposing=Proposing((16.0, 32.0), 50, 10))
    whole = learnt(design, steps=4)
    half = learnt(design, steps=2)
    state = {name: tensor.clone() for name, tensor in half.state().items()}
    other = detector(design)
    other.restore(state)
    for step in (2, 3):
        other.learn([example(other, None)], step)
    assert whole.state().keys() == other.state().keys()
    assert any(name.startswith("rpn.") for name in state)
    assert all(torch.equal(whole.state()[name], tensor) for name, tensor in other.state().items())


def test_init__renews_the_linear_layers_or_keeps_them() -> None:
    kept, renewed = (detector(replace(DESIGN, renew=renew)).state() for renew in (False, True))
    name = "network.backbone.fc5.weight"
    assert torch.equal(kept[name], build().state_dict()["backbone.fc5.weight"])
    assert renewed[name].std().item() == pytest.approx(0.01, rel=0.05)


def test_init__refuses_a_network_without_the_two_halves() -> None:
    with pytest.raises(ConfigError, match="own networks: alexnet, vgg16, smallnet"):
        detector(network=build("torchvision:resnet18"))


def test_map__of_a_mirrored_picture_is_that_of_the_mirrored_pixels() -> None:
    model = detector()
    mirrored = np.ascontiguousarray(PICTURE_HWC[:, ::-1])
    assert torch.equal(model.map(PICTURE_HWC, flipped=True), model.map(mirrored, flipped=False))


def test_detect__moves_boxes_and_drops_the_lesser_of_two_that_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = detector()
    boxes_R4 = torch.tensor([[0.0, 0, 20, 20], [2, 0, 22, 20], [40, 20, 60, 40], [0, 0, 5, 5]])
    probability_RC = torch.tensor(
        [[0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6], [0.96, 0.02, 0.02]]
    )
    move_RX = torch.zeros(4, 12)
    move_RX[2, 8:] = torch.tensor([10 * 0.5, 0.0, 5 * np.log(2.0), 0.0])  # of its class alone
    monkeypatch.setattr(model, "_judged", lambda _windows: (probability_RC.log(), move_RX))

    found, proposals_R4 = model.detect(example(model).map_1CHW, (48, 64), boxes_R4)

    assert torch.equal(proposals_R4, boxes_R4)
    assert found.score_K.tolist() == pytest.approx([0.8, 0.6, 0.1, 0.1])
    assert found.label_K[:2].tolist() == [1, 2]
    assert sorted(found.label_K[2:].tolist()) == [1, 2], "each class has its own"
    assert found.box_K4[0].tolist() == [2, 0, 22, 20]
    # Half its width to the right, twice as wide, and not beyond the picture.
    assert found.box_K4[1].tolist() == pytest.approx([40, 20, 64, 40], abs=1e-4)


def test_detect__keeps_the_best_of_all_classes() -> None:
    chosen = Chosen(nms_iou=0.3, score=0.0, detections=3)
    model = detector(replace(DESIGN, chosen=chosen))
    found, _ = model.detect(example(model).map_1CHW, (48, 64), PROPOSALS)
    assert len(found.score_K) == 3
    every, _ = detector().detect(example(model).map_1CHW, (48, 64), PROPOSALS)
    assert torch.equal(found.score_K, every.score_K[:3])


def test_detect__says_the_same_whatever_is_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, place = detector(), "deepcluster_core.evaluation.voc.detection.detector.REGIONS_AT_ONCE"
    one_map = example(model).map_1CHW
    whole, _ = model.detect(one_map, (48, 64), PROPOSALS)
    monkeypatch.setattr(place, 3)
    parts, _ = model.detect(one_map, (48, 64), PROPOSALS)
    assert torch.allclose(whole.box_K4, parts.box_K4, atol=1e-4)


def test_detect__of_no_proposals_is_nothing() -> None:
    model = detector()
    found, _ = model.detect(example(model).map_1CHW, (48, 64), torch.zeros(0, 4))
    assert len(found.score_K) == 0
