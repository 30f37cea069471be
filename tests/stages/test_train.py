"""Labels and checkpoint in, checkpoint out. Suffixes: N images."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deepcluster_core.artifacts.checkpoints import load_momentum, restore_network
from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.file_names import MOMENTUM
from deepcluster_core.artifacts.manifest import Condition, Manifest, inspect, read_manifest
from deepcluster_core.config import Precision
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError, TrainingError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.precision import is_narrow
from stages.train import Pace, TrainConfig
from stages.train import train as stage
from tests.margins import SEED, below
from tests.support.artifacts import reseal
from tests.support.threads import torch_threads

CONTEXT = Context(seed=SEED, epoch=0)
PLAIN = TrainConfig(batch_size=32)


class Trainer:
    """Runs the stage on the shared images and labels."""

    def __init__(self, images: Path, labels: Path, network: NetworkConfig, root: Path) -> None:
        self.images, self.labels, self.network, self.root = images, labels, network, root
        self.out = root

    def __call__(
        self,
        config: TrainConfig = PLAIN,
        *,
        context: Context = CONTEXT,
        checkpoint: Path | None = None,
        network: NetworkConfig | None = None,
    ) -> Manifest:
        self.out = self.root / f"checkpoint-{len(list(self.root.glob('checkpoint-*')))}"
        stage.run(
            train=config,
            network=network or self.network,
            images=self.images,
            labels=self.labels,
            checkpoint=checkpoint,
            out=self.out,
            context=context,
        )
        return read_manifest(self.out)


@pytest.fixture
def train(images: Path, labels: Path, network: NetworkConfig, tmp_path: Path) -> Trainer:
    return Trainer(images, labels, network, tmp_path)


def test_run__writes_a_network_and_its_momentum(network: NetworkConfig, checkpoint: Path) -> None:
    manifest = read_manifest(checkpoint)
    model = restore_network(network, channels=1, seed=99, checkpoint=checkpoint)
    initial = restore_network(network, channels=1, seed=31, checkpoint=None)

    assert inspect(checkpoint)[0] is Condition.WHOLE
    assert (manifest.stage, manifest.rows, manifest.epoch) == ("train", 240, 0)
    assert (manifest.facts["k"], manifest.facts["network"]) == (8, "smallnet")
    assert manifest.facts["loss"] > 0
    parameters = dict(model.named_parameters())
    assert load_momentum(checkpoint).keys() == parameters.keys()
    for name, parameter in initial.named_parameters():
        assert not torch.equal(parameter, parameters[name]), f"{name} did not learn"


@pytest.mark.learns
def test_run__learns_the_clusters(train: Trainer) -> None:
    without_dropout = train.network.model_copy(update={"dropout": 0.0})
    config = TrainConfig(batch_size=32, lr=0.01, crop_area=(0.5, 1.0), reassign_every=16.0)

    loss = train(config, network=without_dropout).facts["loss"]

    # A head that knows nothing has ln 8 = 2.08; the mean over the epoch was measured as 1.34.
    assert below("loss of an epoch", loss, 1.7)


@pytest.mark.parametrize("workers", [1, 5])
def test_run__same_digest_with_any_number_of_workers(
    train: Trainer, checkpoint: Path, workers: int
) -> None:
    again = train(context=replace(CONTEXT, workers=workers))

    assert (again.digest, again.key) == (
        read_manifest(checkpoint).digest,
        read_manifest(checkpoint).key,
    )


def test_run__same_digest_with_several_threads_of_torch(train: Trainer) -> None:
    config = TrainConfig(batch_size=60, reassign_every=0.5)
    with torch_threads(2):  # as many as a user has; the other tests take one, to be quick
        once, again = train(config), train(config)

    assert once.digest == again.digest


def test_run__seed_and_epoch_decide_order_and_crops(train: Trainer, checkpoint: Path) -> None:
    # Beginning at the same checkpoint, so that only chance within the epoch differs.
    digests = {
        train(context=Context(seed=seed, epoch=epoch), checkpoint=checkpoint).digest
        for seed, epoch in ((31, 1), (31, 2), (32, 1), (31, 1))
    }

    assert len(digests) == 3


def test_run__goes_on_from_the_checkpoint_with_its_momentum(
    train: Trainer, checkpoint: Path, tmp_path: Path
) -> None:
    at_rest = shutil.copytree(checkpoint, tmp_path / "at-rest")
    stopped = {name: torch.zeros_like(m) for name, m in load_momentum(checkpoint).items()}
    save_file(stopped, at_rest / MOMENTUM)
    reseal(at_rest)

    began, went_on, lost = (
        train(context=Context(seed=31, epoch=1), checkpoint=start)
        for start in (None, checkpoint, at_rest)
    )

    assert went_on.inputs["checkpoint"] == read_manifest(checkpoint).digest
    assert "checkpoint" not in began.inputs
    assert len({began.digest, went_on.digest, lost.digest}) == 3


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(batch_size=32, lr=0.01),
        TrainConfig(batch_size=32, momentum=0.5),
        TrainConfig(batch_size=32, weight_decay=0.01),
        TrainConfig(batch_size=16),
        TrainConfig(batch_size=32, balance="weigh"),
        TrainConfig(batch_size=32, balance="none"),
        TrainConfig(batch_size=32, reassign_every=0.5),
        TrainConfig(batch_size=32, crop_area=(0.5, 1.0)),
        TrainConfig(batch_size=32, crop_ratio=(1.0, 1.0)),
        TrainConfig(batch_size=32, flip=0.0),
    ],
    ids=lambda config: str(config.model_dump(exclude_defaults=True)),
)
def test_run__every_setting_matters(train: Trainer, checkpoint: Path, config: TrainConfig) -> None:
    changed = train(config)

    assert changed.digest != read_manifest(checkpoint).digest
    assert changed.key != read_manifest(checkpoint).key


def test_run__computes_in_the_precision_that_was_asked_for(train: Trainer) -> None:
    precisions: list[Precision] = ["float32", "bfloat16", "auto"]
    wide, narrow, auto = (
        train(TrainConfig(batch_size=32, precision=precision)).digest for precision in precisions
    )
    assert wide != narrow
    assert auto == (narrow if is_narrow("cpu", "auto") else wide)


def test_run__balances_by_weights_otherwise_than_not_at_all(train: Trainer) -> None:
    weighed = train(TrainConfig(batch_size=32, balance="weigh"))
    plain = train(TrainConfig(batch_size=32, balance="none"))

    assert weighed.digest != plain.digest, "both take the same images in the same order"


@pytest.mark.parametrize(
    ("batch_size", "reassign_every", "rows"),
    [
        (32, 0.5, 120),
        (32, 1.25, 300),
        (239, 1.0, 239),
        (60, 1.0, 240),
    ],
    ids=["half", "more than a pass", "last batch of one is left out", "whole batches"],
)
def test_run__length_of_an_epoch(
    train: Trainer, batch_size: int, reassign_every: float, rows: int
) -> None:
    told: list[tuple[int, int | None]] = []
    context = replace(CONTEXT, progress=lambda done, total: told.append((done, total)))
    config = TrainConfig(batch_size=batch_size, reassign_every=reassign_every)

    manifest = train(config, context=context)

    assert manifest.rows == rows
    assert told[-1] == (rows, rows)
    assert len(told) == -(-rows // batch_size)


AUTO = TrainConfig(batch_size="auto", reassign_every="auto")


@pytest.mark.parametrize("num_images", [10, 240, 2_000, 10_000, 99_999, 100_000, 10**8])
def test_pace__auto_is_whole_passes_of_some_150_steps_or_one(num_images: int) -> None:
    pace = Pace.of(AUTO, num_images=num_images)

    passes = pace.num_draws / num_images
    assert passes == int(passes) >= 1
    # Whole passes: 150 steps less or more half a pass.
    half_a_pass = num_images / pace.batch_size / 2
    assert passes == 1 or abs(pace.steps - 150) <= half_a_pass + 1
    assert pace.batch_size <= 256, "the paper's"


def test_pace__numbers_overrule_auto() -> None:
    config = TrainConfig(batch_size=30, reassign_every=0.5)

    assert Pace.of(config, num_images=240) == Pace(batch_size=30, num_draws=120)
    assert Pace.of(config, num_images=240).steps == 4
    assert Pace.of(config, num_images=1).num_draws == 1, "at least one image"


# Refused


def test_run__refuses_a_checkpoint_of_another_network(train: Trainer, checkpoint: Path) -> None:
    other = NetworkConfig(name="smallnet", image_size=16, sobel=False)

    with pytest.raises(
        ArtifactError, match=r"holds a different network than the recipe's: \S*conv1"
    ):
        train(network=other, checkpoint=checkpoint)


def test_run__refuses_labels_that_are_not_finished(train: Trainer, tmp_path: Path) -> None:
    train.labels = tmp_path / "labels"
    try:
        with new_artifact(stage.identity, train.labels, config={}, inputs={}, context=CONTEXT):
            raise RuntimeError("power cut")
    except RuntimeError:
        pass

    with pytest.raises(ArtifactError, match=r"labels: does not hold a finished artifact"):
        train()


def test_run__diverging_loss_leaves_no_checkpoint(train: Trainer) -> None:
    with pytest.raises(TrainingError, match=r"loss is no longer finite.*\n.*\n.*lower train.lr"):
        train(TrainConfig(batch_size=32, lr=1e20))

    assert inspect(train.out)[0] is Condition.UNFINISHED


def test_run__on_a_device_that_is_fed_learns_as_on_the_host(train: Trainer) -> None:
    slow = PLAIN.model_copy(update={"lr": 0.001})  # so that differences do not grow
    host = train(slow)

    device = train(slow, context=replace(CONTEXT, feed="device"))

    assert device.key == host.key, "the feed is no part of the key"
    assert device.digest != host.digest, "the views of the device are not rounded"
    # The views differ by up to 1 of 255.
    assert device.facts["loss"] == pytest.approx(host.facts["loss"], abs=0.01)


def test_run__does_not_feed_images_of_any_size_to_a_device(
    train: Trainer, images_of_any_size: Path
) -> None:
    train.images = images_of_any_size
    host = train()

    device = train(context=replace(CONTEXT, feed="device"))

    assert device.digest == host.digest, "the views of the host are rounded"
