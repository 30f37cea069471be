"""Table 2's detection, on a drawn Pascal VOC and a network that saw it without labels."""

import json
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from deepcluster_core.artifacts.file_names import MODEL
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.context import Context, SaveEvery
from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.evaluation.voc.dataset import Voc
from deepcluster_core.evaluation.voc.detection.scaling import Scale
from deepcluster_core.evaluation.voc.detection.scoring import SIDES
from deepcluster_core.evaluation.voc.detection.task import read_subset
from deepcluster_core.evaluation.voc.detection.verdicts import (
    overlaps,
    precision_at_recalls,
    verdicts,
)
from deepcluster_core.interrupts import HeldBack, Interrupted
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations.shared import fine_tuning
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import RESULTS
from stages.evaluations.voc_detection import DETECTIONS, EVALUATION, PICTURE, data_digest
from stages.evaluations.voc_detection_protocol import VocDetectionConfig
from tests.margins import above, below
from tests.support.pretraining import EPOCHS, LAST, NETWORK, mean_lead, pretrain
from tests.support.voc_tree import CLASSES, HEIGHT, WIDTH, write_voc

SIZES = {"train": 60, "val": 16, "test": 60}
FEW = {"train": 14, "val": 14, "test": 12}
STEP = 4  # pixels from window to window
WINDOWS = 492
TRAINED = f"epoch {EPOCHS - 1}"
# A drawn tree needs no 40,000 steps; fewer are larger.
SHORT: dict[str, Any] = {"iterations": 120, "lr": 0.02, "drop_every": 90, "precision": "float32"}
BRIEF: dict[str, Any] = SHORT | {"iterations": 4}

MODES = {"fc6-8": "voc-detection.yaml", "all": "voc-detection-all.yaml"}
Keys = dict[str, Any]
Evaluated = Callable[..., pd.DataFrame]


def protocol(mode: str = "fc6-8", /, **changes: object) -> VocDetectionConfig:
    return load_protocol(PROTOCOLS / MODES[mode], VocDetectionConfig, changes)


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a drawn VOC of 136 pictures with proposals. Shared: a test must not change it."""
    return drawn(tmp_path_factory.mktemp("voc"), SIZES)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one of 40 pictures. Shared, likewise."""
    return drawn(tmp_path_factory.mktemp("few"), FEW)


def drawn(root: Path, sizes: dict[str, int]) -> Path:
    write_voc(root, sizes=sizes)
    for subset in ("trainval", "test"):
        write_proposals(root, subset)
    return root


def write_proposals(root: Path, subset: str) -> None:
    """Propose the same everywhere: three sliding windows."""
    windows = [
        (left, top, left + width, top + height)
        for width, height in ((8, 22), (20, 20), (26, 26))
        for left in range(0, WIDTH - width + 1, STEP)
        for top in range(0, HEIGHT - height + 1, STEP)
    ]
    rows = [(name, *box) for name in Voc(root).listed(subset, "Main") for box in windows]
    (root / "proposals").mkdir(exist_ok=True)
    columns = ["name", "left", "top", "right", "bottom"]
    pd.DataFrame(rows, columns=columns).to_parquet(root / "proposals" / f"{subset}.parquet")


@pytest.fixture(scope="session")
def pretrained(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a short run on the pictures, without any label."""
    return pretrain(voc / "VOCdevkit/VOC2007/JPEGImages", tmp_path_factory.mktemp("run"))


@pytest.fixture
def evaluated(few: Path, tmp_path: Path) -> Evaluated:
    """Return a function that evaluates, and reads the rows; the random network unless told."""

    def of(keys: VocDetectionConfig, *, out: str = "out", **others: object) -> pd.DataFrame:
        given: Keys = {
            "network": NETWORK,
            "data": few,
            "checkpoint": None,
            "supervised": None,
            "channels": 3,
            "context": LAST,
        }
        given.update(others)
        EVALUATION.run(protocol=keys, out=tmp_path / out, **given)
        return pd.read_parquet(tmp_path / out / RESULTS)

    return of


def mean(rows: pd.DataFrame, network: str) -> float:
    found = rows.query("network == @network and `class` == 'mean'")
    return float(found.ap.iloc[0])


@pytest.mark.learns
@pytest.mark.slow
def test_run__both_networks_beat_chance(
    evaluated: Evaluated, voc: Path, pretrained: Path, tmp_path: Path
) -> None:
    rows = evaluated(protocol(**SHORT), data=voc, checkpoint=pretrained)

    assert rows["class"].tolist() == [*CLASSES, "mean"] * 2
    each = rows.query("`class` != 'mean'")
    for name in ("random", TRAINED):
        assert mean(rows, name) == pytest.approx(each.query("network == @name").ap.mean())
    # Measured with three seeds and on two processors: 87 ± 4.4 and 72 ± 4.6. A random network's
    # maps tell such shapes apart, too: in 300 steps 96.4 and 84.0.
    assert above("detection: mean AP", mean(rows, TRAINED), 65)
    assert above("detection: mean AP of random", mean(rows, "random"), 50)
    table = pd.read_parquet(tmp_path / "out" / DETECTIONS).query("network == @TRAINED")
    assert below("detection: mean AP by chance", chance(table, voc), 10)
    check_right(table, each.query("network == @TRAINED"), voc)
    facts = read_manifest(tmp_path / "out").facts
    assert (facts["trained_on"], facts["judged_on"]) == ("trainval", "test")
    assert facts["judged_images"] == 60
    assert 60 < facts["training_images"] <= 76
    assert facts["picture_of"] == TRAINED
    assert facts["seconds_per_step"].keys() == {"random", TRAINED}
    assert facts["hours_at_full_length"] > 0
    with Image.open(tmp_path / "out" / PICTURE) as picture:
        assert picture.width > 4 * 240


@pytest.mark.slow
@pytest.mark.learns
def test_run__pretrained_networks_beat_random_ones(
    evaluated: Evaluated, voc: Path, tmp_path: Path
) -> None:
    def lead(**given: object) -> float:
        rows = evaluated(protocol(**SHORT), data=voc, **given)
        return mean(rows, TRAINED) - mean(rows, "random")

    # Measured: 18 ± 7 for one. In 300 steps a random network learns it nearly alike.
    found = mean_lead(voc / "VOCdevkit/VOC2007/JPEGImages", tmp_path / "runs", lead)
    assert above("detection: mean lead over random", found, 0)


def chance(table: pd.DataFrame, voc: Path) -> float:
    """Return the mean average precision of the same detections in other pictures, percent."""
    subset, generator = read_subset(Voc(voc), "test"), np.random.default_rng(0)
    precisions: list[float] = []
    for class_name in CLASSES:
        of_class, truth = table.query("`class` == @class_name"), subset.truth(class_name)
        score_D = of_class["score"].to_numpy()
        picture_D = generator.integers(len(subset.names), size=len(of_class))
        verdict_D = verdicts(picture_D, score_D, of_class[SIDES].to_numpy(), truth)
        num_objects = int((~truth.difficult_O).sum())
        precisions.append(precision_at_recalls(score_D, verdict_D, num_objects=num_objects))
    return 100 * float(np.mean(precisions))


def check_right(table: pd.DataFrame, rows: pd.DataFrame, voc: Path) -> None:
    """What the table calls right overlaps an object of its class, in pixels of the picture."""
    right = table.query("verdict == 'right'")
    assert above("detection: right ones", len(right), 50)
    keys = right[["name", "class"]].to_numpy().tolist()
    for (name, class_name), box_4 in zip(keys, right[SIDES].to_numpy(), strict=True):
        boxes = [found.box for found in Voc(voc).objects(name) if found.name == class_name]
        assert overlaps(box_4[None], np.array(boxes)).max() >= 0.5
    found = right["class"].value_counts().to_dict()
    objects = dict(zip(rows["class"], rows.objects, strict=True))
    assert all(found[class_name] <= objects[class_name] for class_name in CLASSES)


@pytest.mark.slow
@pytest.mark.learns
def test_run__the_pretrained_network_proposes_better_than_random(
    evaluated: Evaluated, voc: Path, pretrained: Path
) -> None:
    keys = protocol(
        **SHORT | {"iterations": 300, "lr": 0.01, "drop_every": 220, "proposals": "rpn"}
    )
    rows = evaluated(keys, data=voc, checkpoint=pretrained).query("`class` == 'mean'")
    # Measured: 80.7 and 73.7, too near to each other; they propose 100 % and 75 % of the objects.
    assert above("detection, RPN: least mean AP", rows.ap.min(), 50)
    proposed = dict(zip(rows.network, rows.proposed, strict=True))
    over_random = proposed[TRAINED] - proposed["random"]
    assert above("detection, RPN: proposed", proposed[TRAINED], 90)
    assert above("detection, RPN: proposed over random", over_random, 5)


def test_run__looks_where_the_file_proposes(evaluated: Evaluated, tmp_path: Path) -> None:
    rows = evaluated(protocol(**BRIEF))
    facts = read_manifest(tmp_path / "out").facts
    assert facts["proposals"] == "proposals/trainval.parquet, proposals/test.parquet"
    assert rows.proposed.eq(100).all()
    assert rows.proposals.eq(WINDOWS).all()
    assert not any("Faster" in told for told in facts["deviations"])


def test_run__proposes_by_a_network_where_there_is_no_file(
    evaluated: Evaluated, few: Path, tmp_path: Path
) -> None:
    rows = evaluated(protocol(**BRIEF | {"proposals": "rpn", "judged_proposals": 17}))
    assert read_manifest(tmp_path / "out").facts["proposals"] == "rpn"
    assert rows.proposals.eq(17).all()
    assert data_digest(few, protocol(proposals="rpn")) != data_digest(few, protocol())


@pytest.mark.slow
def test_run__selects_on_val(evaluated: Evaluated, tmp_path: Path) -> None:
    evaluated(protocol(**BRIEF | {"proposals": "rpn"}, select=True))
    facts = read_manifest(tmp_path / "out").facts
    assert (facts["trained_on"], facts["judged_on"]) == ("train", "val")
    assert facts["judged_images"] == 14


def test_run__names_every_deviation(evaluated: Evaluated, tmp_path: Path) -> None:
    evaluated(protocol("all", **BRIEF, detections=50), channels=1)
    told = read_manifest(tmp_path / "out").facts["deviations"]
    assert {
        "iterations: 4 instead of 40000",
        "lr: 0.02 instead of 0.001",
        "drop_every: 90 instead of 30000",
        "detections: 50 instead of 100",
        "regions are not of selective search, but of a file of one's own",
        "pictures of a shorter side of 86 px instead of 600",
        "pictures of 1 channels instead of 3",
    } <= set(told)
    assert any("biases" in sentence for sentence in told)
    assert any("convolutions" in sentence for sentence in told)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({}, id="file"),
        pytest.param({"proposals": "rpn"}, id="rpn", marks=pytest.mark.slow),
    ],
)
def test_run__writes_the_same_bytes_again(evaluated: Evaluated, tmp_path: Path, keys: Keys) -> None:
    given = BRIEF | keys
    evaluated(protocol(**given))
    other = Context(seed=31, epoch=EPOCHS - 1, workers=3)
    evaluated(protocol(**given, cache_bytes=0), out="again", context=other)
    first, again = (pd.read_parquet(tmp_path / out / DETECTIONS) for out in ("out", "again"))
    pd.testing.assert_frame_equal(first, again)
    evaluated(protocol(**given), out="third", context=other)
    for name in (RESULTS, DETECTIONS, PICTURE):
        first, again = ((tmp_path / out / name).read_bytes() for out in ("out", "third"))
        assert first == again


@pytest.mark.slow
def test_run__weights_trained_with_labels_are_one_more_network(
    evaluated: Evaluated, pretrained: Path, tmp_path: Path
) -> None:
    rows = evaluated(protocol(**BRIEF), checkpoint=pretrained, supervised=pretrained / MODEL)
    assert rows.network.unique().tolist() == ["random", TRAINED, "supervised"]
    assert mean(rows, "supervised") == mean(rows, TRAINED), "the same weights"
    table = pd.read_parquet(tmp_path / "out" / DETECTIONS)
    assert set(table.network) <= {"random", TRAINED, "supervised"}


@pytest.mark.parametrize(("told", "saved_at"), [(False, 2), (True, 3)], ids=["crash", "Ctrl-C"])
@pytest.mark.slow
def test_run__cut_short_goes_on_and_ends_with_the_same_files(
    evaluated: Evaluated,
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    told: bool,
    saved_at: int,
) -> None:
    whole = evaluated(protocol(**BRIEF), out="whole", checkpoint=pretrained)
    held = HeldBack()  # a real signal would end the worker that runs the tests
    monkeypatch.setattr(fine_tuning, "held_back", lambda: nullcontext(held))

    def stop_in_the_second_network(done: int, total: int | None) -> None:
        if done == 4 * 2 + FEW["test"] + 3 * 2:
            if not told:
                raise ZeroDivisionError("the machine is gone")
            held.signal = signal.SIGINT

    cut = replace(LAST, progress=stop_in_the_second_network, save_every=SaveEvery(steps=2))
    with pytest.raises(Interrupted if told else ZeroDivisionError):
        evaluated(protocol(**BRIEF), checkpoint=pretrained, context=cut)
    saved = json.loads((tmp_path / "out" / "_saved.json").read_text())["facts"]
    assert (saved["learner"], saved["step"]) == (TRAINED, saved_at)
    assert {row["network"] for row in saved["rows"]} == {"random"}
    held.signal = None

    after = evaluated(protocol(**BRIEF), checkpoint=pretrained)

    pd.testing.assert_frame_equal(after, whole)
    for name in (DETECTIONS, PICTURE):
        first, again = ((tmp_path / out / name).read_bytes() for out in ("whole", "out"))
        assert first == again, "those of the network before were kept"
    assert not [*(tmp_path / "out").glob("_saved*"), *(tmp_path / "out").glob("*.part")]


def test_run__reports_how_far_it_is(evaluated: Evaluated) -> None:
    told: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        told.append((done, total))

    evaluated(protocol(**BRIEF), context=replace(LAST, progress=progress))
    total = 4 * 2 + FEW["test"]
    assert {of for _, of in told} == {total}
    assert told[-1][0] == total


def test_run__proposals_of_one_subset_alone_are_told(evaluated: Evaluated, tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", sizes=FEW)
    write_proposals(tmp_path / "voc", "trainval")
    with pytest.raises(SourceError, match="no proposals for test"):
        evaluated(protocol(), data=tmp_path / "voc")
    (tmp_path / "voc/proposals/trainval.parquet").unlink()
    with pytest.raises(SourceError, match="no proposals for trainval"):
        evaluated(protocol(proposals="file"), data=tmp_path / "voc")


def test_run__refuses_a_network_that_it_cannot_take_apart(evaluated: Evaluated) -> None:
    network = NetworkConfig(name="torchvision:resnet18", image_size=32)
    with pytest.raises(ConfigError, match="own networks: alexnet, vgg16, smallnet"):
        evaluated(protocol(**BRIEF), network=network)


def test_data_digest__depends_on_what_is_read(few: Path, tmp_path: Path) -> None:
    selecting = protocol(select=True, proposals="rpn")
    assert data_digest(few, selecting) != data_digest(few, protocol(proposals="rpn"))
    write_voc(tmp_path, sizes=FEW)
    before = data_digest(tmp_path, protocol())
    for subset in ("trainval", "test"):
        write_proposals(tmp_path, subset)
    assert data_digest(tmp_path, protocol()) != before


def test_scale__is_600_for_224_and_in_proportion_for_others() -> None:
    assert protocol().scale(224) == Scale(600, 1000)
    assert protocol().scale(112) == Scale(300, 500)
    assert protocol(shorter_side=90).scale(32) == Scale(90, 150)
    assert protocol(shorter_side=90, longer_side=99).scale(32) == Scale(90, 99)


def test_design__follows_the_size_and_where_regions_come_from() -> None:
    by_file, by_network = (protocol().design(224, proposes=p) for p in (False, True))
    assert by_file.proposing is None
    assert by_file.sampling.background_iou == 0.1
    assert by_network.proposing is not None
    assert by_network.proposing.anchor_sides == (128, 256, 512)
    assert by_network.sampling.background_iou == 0
    small = protocol(background_iou=0.05).design(112, proposes=True)
    assert small.proposing is not None
    assert small.proposing.anchor_sides == (64, 128, 256)
    assert small.sampling.background_iou == 0.05


@pytest.mark.parametrize("mode", ["fc6-8", "all"])
def test_protocol__has_every_key_and_no_other(mode: str) -> None:
    path = PROTOCOLS / MODES[mode]
    assert set(yaml.safe_load(path.read_text())) == set(VocDetectionConfig.model_fields)
    assert all(field.is_required() for field in VocDetectionConfig.model_fields.values())
    assert protocol(mode).train == mode


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": "fc8"},
        {"proposals": "selective"},
        {"background_iou": "none"},
        {"anchor_sides": [0]},
        {"drop": 0},
        {"lr": 0},
    ],
    ids=str,
)
def test_protocol__refuses_what_means_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        protocol(**wrong)
