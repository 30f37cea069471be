"""Recorded steps, with a recorder that repeats the work's Python code instead of a CUDA graph."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.training.average import WeightAverage
from deepcluster_core.training.epoch import Batch, Progress, PseudoLabelLearner
from deepcluster_core.training.heads import Fresh
from deepcluster_core.training.learner import Sgd
from deepcluster_core.training.steps import WARM_UP_STEPS, RecordedSteps, steps_of
from tests.core.training.test_epoch import batch, state

SGD = Sgd(lr=0.05, momentum=0.9, weight_decay=1e-4)
LARS = replace(SGD, lr=0.5, trust=0.02)


class FakeRecorder:
    """Does the recorded work by calling it again; what it reads must be what was recorded."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do the work."""
        self.calls.append("warm up")
        work()

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        """Keep the work."""
        self.calls.append("record")

        def replay() -> None:
            self.calls.append("replay")
            work()

        return replay


class Falling:
    """A learning rate that is different in every step."""

    def at(self, step: int) -> float:
        """Return the learning rate of a step."""
        return 0.1 / (1 + step)


def learner(sgd: Sgd, device: str = "cpu") -> PseudoLabelLearner:
    config = NetworkConfig(name="smallnet", image_size=16, sobel=False, dropout=0.5)
    network = build_network(config, channels=1, seed=1)
    head = Fresh.drawn(network.output_dim, 3, seed=2)
    made = PseudoLabelLearner(network, head=head, sgd=sgd, device=device, dropout_seed=3)
    made.average = WeightAverage(network, share=0.9, start=None)
    made.network.train()
    return made


def batches(
    sizes: Sequence[int] = (12, 12, 12, 12, 12, 7, 12, 12, 5), *, is_weighted: bool = False
) -> list[Batch]:
    """Return batches; without sizes, nine, of which one in the middle and the last are smaller."""
    return [
        batch(
            [number % 3 for number in range(size)],
            seed=seed,
            weights=[0.5 + number / size for number in range(size)] if is_weighted else None,
        )
        for seed, size in enumerate(sizes)
    ]


def learn(
    made: PseudoLabelLearner, given: Sequence[Batch], take: Callable[[Batch, int], torch.Tensor]
) -> list[float]:
    """Train as `train_epoch` does; return the sums of the loss after each step."""
    progress = Progress.resumed(None, "cpu")
    sums: list[float] = []
    for number, one in enumerate(given):
        loss = take(one, number)
        progress.add(loss, one.num_images, made.finish_step(one))
        sums.append(float(progress.loss_sum))
    return sums


def with_soft_targets(one: Batch) -> Batch:
    """Return a batch whose images share their targets with the next cluster, each differently."""
    assert isinstance(one.cluster_HB, np.ndarray)
    second_HB = (one.cluster_HB + 1) % 3
    share_HB = np.linspace(0, 0.5, second_HB.size, dtype=np.float32)[None]
    return replace(one, second_HB=second_HB, second_share_HB=share_HB)


@pytest.mark.parametrize("sgd", [SGD, replace(SGD, schedule=Falling()), LARS])
@pytest.mark.parametrize(("is_weighted", "is_soft"), [(False, False), (True, False), (True, True)])
def test_recorded_steps__learn_what_eager_steps_learn(
    sgd: Sgd, is_weighted: bool, is_soft: bool
) -> None:
    given = batches(is_weighted=is_weighted)
    if is_soft:
        given = [with_soft_targets(one) for one in given]
    eager, recorded = learner(sgd), learner(sgd)
    recorder = FakeRecorder()

    with steps_of(eager, "float32", None) as take:
        expected = learn(eager, given, take)
    found = learn(recorded, given, RecordedSteps(recorded, "float32", recorder).take)

    assert recorded.is_recordable
    warm_up, replay = "warm up", "replay"
    before = [warm_up] * WARM_UP_STEPS + ["record"]
    assert recorder.calls == [*before, replay, replay, warm_up, replay, replay, warm_up]
    # The learning rate lies on the device as float32.
    assert found == pytest.approx(expected, rel=1e-5)
    for name, weight in state(eager).items():
        torch.testing.assert_close(state(recorded)[name], weight, msg=name)
    assert eager.average is not None
    assert recorded.average is not None
    for name, weight in eager.average.weights().items():
        torch.testing.assert_close(recorded.average.weights()[name], weight, msg=name)


@pytest.mark.parametrize(
    ("sizes", "recorded_at"),
    [
        pytest.param((12, 12, 12, 7), [], id="the last batch is the fourth"),
        pytest.param((12, 12, 12, 7, 12), [4], id="another size comes first"),
        pytest.param((7, 12) * 5, [6, 7], id="two sizes in turn"),
        pytest.param((7, 12, 5) * 4, [9, 10], id="two of three sizes"),
    ],
)
def test_recorded_steps__record_a_size_only_after_it_has_warmed_up(
    sizes: Sequence[int], recorded_at: list[int]
) -> None:
    given = batches(sizes)
    made, eager = learner(SGD), learner(SGD)
    recorder = FakeRecorder()
    steps = RecordedSteps(made, "float32", recorder)

    found: list[int] = []
    for number, one in enumerate(given):
        num_before = recorder.calls.count("record")
        steps.take(one, number)
        if recorder.calls.count("record") > num_before:
            found.append(number)

    assert found == recorded_at
    for number, one in enumerate(given):
        eager.learn(one, number, precision="float32")
    for name, weight in state(eager).items():
        torch.testing.assert_close(state(made)[name], weight, msg=name)


def test_recorded_steps__leave_the_outputs_of_their_own_batch() -> None:
    given = batches()
    made = learner(SGD)
    steps = RecordedSteps(made, "float32", FakeRecorder())

    sizes: list[int] = []
    for number, one in enumerate(given):
        steps.take(one, number)
        sizes.append(len(made.outputs[0]))

    assert sizes == [one.num_images for one in given]


def test_recorded_steps__do_not_change_the_generator_of_others() -> None:
    made = learner(SGD)
    steps = RecordedSteps(made, "float32", FakeRecorder())
    before = torch.get_rng_state()

    for number, one in enumerate(batches()):
        steps.take(one, number)

    assert torch.equal(torch.get_rng_state(), before)


def test_steps_of__on_a_cpu_are_eager() -> None:
    made = learner(SGD)
    with steps_of(made, "float32", "graph") as take:
        take(batch([0, 1, 2]), 0)

    assert isinstance(made._optimizer.lr, float)  # pyright: ignore[reportPrivateUsage]


def test_batch__on_the_device_is_not_moved_again() -> None:
    views = torch.rand(3, 1, 16, 16)
    clusters = torch.tensor([[0, 1, 2]])
    given = Batch((views,), (1,), clusters, None, np.arange(3))

    moved = given.on_device("cpu")

    assert moved.views[0] is views
    assert moved.cluster_HB is clusters
