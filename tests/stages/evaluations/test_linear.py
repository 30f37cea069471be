"""Table 1: linear classifiers on every layer, beside those on a network that learnt nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from deepcluster_core.artifacts.file_names import MODEL
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.ranks import Ranks
from stages.evaluations import linear, mlp
from stages.evaluations.declaration import Evaluation
from stages.evaluations.linear import LinearConfig
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import RESULTS
from tests.margins import SEED, above, below
from tests.support.ranks import on_ranks

CONTEXT = Context(seed=SEED, epoch=0)
LAYERS = ["conv1", "conv2", "conv3", "conv4"]
FAST: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 64,
    "folds": 2,
    "weight_decays": [0.0001, 0.01],
    "random_crop": False,
    "flip": 0.0,
    "precision": "float32",
}

Keys = dict[str, Any]
Linear = Callable[..., pd.DataFrame]


def protocol(**changes: object) -> LinearConfig:
    return load_protocol(PROTOCOLS / "linear.yaml", LinearConfig, FAST | changes)


@pytest.fixture
def evaluated(network: NetworkConfig, images: Path, checkpoint: Path, tmp_path: Path) -> Linear:
    """Return a function that evaluates the shared checkpoint, and reads the rows."""

    def of(
        changes: Keys | None = None,
        *,
        out: str = "linear",
        **others: Path | NetworkConfig | Context | None,
    ) -> pd.DataFrame:
        given: Keys = {
            "network": network,
            "images": images,
            "validation": None,
            "checkpoint": checkpoint,
            "supervised": None,
            "context": CONTEXT,
        }
        given.update(others)
        place = tmp_path / out
        linear.EVALUATION.run(protocol=protocol(**(changes or {})), out=place, **given)
        return pd.read_parquet(place / RESULTS)

    return of


def of_network(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a network's rows without what tells it from others."""
    kept = rows.query("network == @name").drop(columns=["network", "protocol"])
    return kept.reset_index(drop=True)


@pytest.mark.learns
def test_run__has_a_row_for_each_layer_of_each_network(evaluated: Linear, tmp_path: Path) -> None:
    rows = evaluated()

    assert rows.network.tolist() == ["random"] * 4 + ["epoch 0"] * 4
    assert rows.layer.tolist() == LAYERS * 2
    # 16 x 16 x 32, 8 x 8 x 64, 4 x 4 x 128, 2 x 2 x 256: all of them less than 9,000
    assert rows.numbers.tolist() == [8192, 4096, 2048, 1024] * 2
    assert set(rows.weight_decay) <= {0.0001, 0.01}
    assert (rows.top1_best >= rows.top1_last).all()
    assert rows.best_epoch.between(0, 5).all()
    assert (rows.chance == 25).all(), "four classes of equal size"
    least = of_network(rows, "random").top1_best.min()
    assert above("linear: top-1 of the least layer", least, 50), "shapes are told apart"
    facts = read_manifest(tmp_path / "linear").facts
    assert {"judged on a part of the run's images instead of a validation set"} < set(
        facts["deviations"]
    )
    assert facts["training_images"] + facts["validation_images"] == 240
    assert facts["classes"] == 4


def test_run__without_a_checkpoint_judges_the_random_network_alone(evaluated: Linear) -> None:
    alone = evaluated(checkpoint=None)
    beside = evaluated(out="beside")
    assert set(alone.network) == {"random"}
    pd.testing.assert_frame_equal(of_network(alone, "random"), of_network(beside, "random"))


def test_run__writes_the_same_bytes_again(evaluated: Linear, tmp_path: Path) -> None:
    changes = {"random_crop": True, "flip": 0.5, "epochs": 2}
    evaluated(changes)
    evaluated(changes, out="again", context=Context(seed=31, epoch=0, workers=1))
    written = [(tmp_path / name / RESULTS).read_bytes() for name in ("linear", "again")]
    assert written[0] == written[1]


SMALL_CACHE = 5_000_000
"""Bytes that the values of some validation images take, but neither all of these nor the others."""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="everything is computed once"),
        pytest.param(
            {"cache_bytes": SMALL_CACHE},
            id="most is computed in every epoch",
            marks=pytest.mark.slow,
        ),
        pytest.param({"random_crop": True, "flip": 0.5}, id="random views", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("seeded_in_turn")
def test_run__any_number_of_ranks_writes_the_same_bytes(
    evaluated: Linear, tmp_path: Path, changes: Keys
) -> None:
    few: Keys = {"epochs": 2, "batch_size": 32} | changes
    evaluated(few, out="alone")
    told: dict[int, list[int]] = {}

    def work(ranks: Ranks) -> None:
        def progress(done: int, total: int | None) -> None:
            told.setdefault(ranks.rank, []).append(done)

        context = Context(seed=SEED, epoch=0, ranks=ranks, progress=progress)
        evaluated(few, out="together", context=context)

    on_ranks(3, work)

    alone, together = (read_manifest(tmp_path / name) for name in ("alone", "together"))
    assert together.digest == alone.digest
    assert (together.facts, together.ranks) == (alone.facts, 3)
    assert list(told) == [0], "the first rank alone trains"


def test_run__compares_weights_that_were_trained_with_labels(
    evaluated: Linear, checkpoint: Path
) -> None:
    rows = evaluated(supervised=checkpoint / MODEL)
    # The same weights in another file.
    pd.testing.assert_frame_equal(of_network(rows, "supervised"), of_network(rows, "epoch 0"))


@pytest.mark.slow
@pytest.mark.learns
def test_run__judges_on_the_validation_images_that_are_given(
    evaluated: Linear, relabelled: Callable[..., Path], tmp_path: Path
) -> None:
    # Every image bears the name of another class, so who has learnt is wrong about all.
    others = {"bar": "cross", "cross": "disc", "disc": "square", "square": "bar"}
    validation = relabelled(lambda index: index["label"].map(others))

    rows = evaluated({"epochs": 12}, validation=validation)

    assert read_manifest(tmp_path / "linear").facts["validation_images"] == 240
    greatest = of_network(rows, "random").top1_last.max()
    assert below("linear: top-1 by wrong names", greatest, 15), "chance is 25"


@pytest.mark.slow
def test_run__takes_named_layers_of_torchvisions_networks(evaluated: Linear) -> None:
    config = NetworkConfig(name="torchvision:resnet18", image_size=32)
    once: Keys = {"epochs": 1, "weight_decays": [0.0001]}
    layers = ["backbone.layer3", "last_relu"]

    named = evaluated(once | {"layers": layers}, network=config, checkpoint=None)
    auto = evaluated(once, out="auto", network=config, checkpoint=None)

    assert named.layer.tolist() == layers
    assert named.numbers.tolist() == [2 * 2 * 256, 512]
    assert auto.layer.tolist() == ["last_relu"], "its feature"
    assert auto.top1_last[0] == named.top1_last[1]


def test_run__reports_how_far_it_is(evaluated: Linear) -> None:
    told: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        told.append((done, total))

    evaluated(context=Context(seed=31, epoch=0, progress=progress))
    total = 2 * FAST["epochs"] * 192  # networks, epochs, images
    assert {of for _, of in told} == {total}
    assert told[-1][0] == total


def test_run__needs_labels(evaluated: Linear, relabelled: Callable[..., Path]) -> None:
    unlabelled = relabelled(lambda index: [None] * len(index))
    with pytest.raises(ArtifactError, match="labels"):
        evaluated(images=unlabelled)


def test_views_for__keeps_the_margin_of_the_released_code() -> None:
    network = NetworkConfig(name="smallnet", image_size=32)
    assert protocol().views_for(NetworkConfig()).resize == 256
    assert protocol().views_for(network).resize == 37
    with pytest.raises(ConfigError, match=r"resize: 31 px is smaller than .* 32"):
        protocol(resize=31).views_for(network)


@pytest.mark.parametrize("evaluation", [linear.EVALUATION, mlp.EVALUATION], ids=["linear", "mlp"])
def test_protocol__has_every_key_and_no_other(evaluation: Evaluation) -> None:
    path = PROTOCOLS / f"{evaluation.stage.name}.yaml"
    assert set(yaml.safe_load(path.read_text())) == set(evaluation.protocol.model_fields)
    assert all(field.is_required() for field in evaluation.protocol.model_fields.values())
    load_protocol(path, evaluation.protocol, {})


@pytest.mark.parametrize(
    "wrong",
    [{"weight_decays": []}, {"layers": []}, {"folds": 1}, {"flip": 1.5}, {"layers": "all"}],
    ids=str,
)
def test_protocol__refuses_what_means_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        protocol(**wrong)
