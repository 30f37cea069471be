"""What a training step asks of a GPU, counted and traced without one. Suffixes as in `epoch`."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepcluster_core.models.build import build_network, build_without_weights
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.training.epoch import Batch, Classifier, PseudoLabelLearner
from deepcluster_core.training.heads import Fresh, mean_cross_entropy
from deepcluster_core.training.learner import Sgd
from deepcluster_core.training.steps import RecordedSteps
from tests.core.training.test_steps import FakeRecorder
from tests.support.fake_cuda import Seen, fake_gpus
from tests.support.step_budget import Bfloat16, Budget

BATCH, CLUSTERS = 256, 10_000


class WatchedRecorder(FakeRecorder):
    """Notes the devices of all tensors that each replay reads or returns."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen
        self.devices: list[set[str]] = []

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        """Keep the work."""
        replay = super().record(work)

        def watched() -> None:
            self._seen.clear()
            replay()
            self.devices.append(set(self._seen))

        return watched


@pytest.mark.parametrize("channels", [1, 3])
def test_step__of_alexnet_stays_within_its_budget(channels: int) -> None:
    network = build_without_weights(NetworkConfig(name="alexnet"), channels=channels)
    network = network.to("meta").train()
    with torch.device("meta"):
        head = Fresh(network.output_dim, CLUSTERS)
    classifier = Classifier(network, head, "meta")
    views_BCSS = torch.empty(BATCH, channels, 224, 224, device="meta")
    cluster_HB = torch.empty(1, BATCH, dtype=torch.int64, device="meta")

    with Budget() as budget, Bfloat16():
        _, logits = classifier((views_BCSS,), (1,))
        loss = mean_cross_entropy(logits, cluster_HB).mean()
        loss.backward()

    weights_bytes = sum(weight.nbytes for weight in classifier.parameters())
    # The fused update reads weight, gradient and momentum, and writes the first and the last.
    num_bytes = budget.num_bytes + 5 * weights_bytes
    # Counted: 121 and 10.5 GB with one channel, 123 and 10.8 GB with three. A copy of the maps of
    # the first layer would be 2 x 0.4 GB in bfloat16.
    assert budget.num_kernels <= 128
    assert num_bytes <= 11.2e9


def test_budget__counts_what_touches_memory() -> None:
    with Budget() as budget:
        values = torch.empty(4, 8, device="meta")
        halves = values.view(8, 4).narrow(0, 0, 4)
        _ = halves.t() + 1

    assert budget.num_kernels == 1
    assert budget.num_bytes == 2 * 4 * 4 * 4, "reads and writes 16 values of four bytes"


def test_step__is_one_graph_of_torch() -> None:
    network = build_without_weights(NetworkConfig(name="alexnet", image_size=64), channels=3)
    network = network.to_empty(device="cpu").train()
    classifier = Classifier(network, Fresh(network.output_dim, 10), "cpu")

    def loss_of(views_BCSS: Tensor, cluster_HB: Tensor) -> Tensor:
        _, logits = classifier((views_BCSS,), (1,))
        return mean_cross_entropy(logits, cluster_HB).mean()

    traced = torch._dynamo.explain(loss_of)(  # pyright: ignore[reportPrivateUsage]
        torch.rand(2, 3, 64, 64), torch.zeros(1, 2, dtype=torch.int64)
    )

    assert traced.graph_count == 1
    assert traced.graph_break_count == 0, traced.break_reasons


@pytest.mark.parametrize("trust", [None, 0.02])
def test_recorded_steps__neither_wait_nor_read_main_memory(
    trust: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CUDA graph cannot record either: both would fail, or repeat the values of the recording.
    config = NetworkConfig(name="smallnet", image_size=16, dropout=0.5)
    network = build_network(config, channels=1, seed=0)

    def without_gradients(self: PseudoLabelLearner, _loss: Tensor) -> None:
        # Fake tensors of a GPU cannot compute any.
        for module in (self.network, self.head.as_module):
            for weight in module.parameters():
                weight.grad = torch.zeros_like(weight)

    monkeypatch.setattr(PseudoLabelLearner, "backward", without_gradients)
    with fake_gpus() as seen:
        learner = PseudoLabelLearner(
            network,
            head=Fresh.drawn(network.output_dim, 8, seed=0),
            sgd=Sgd(0.1, 0.9, 1e-6, trust=trust),
            device="cuda:1",
            dropout_seed=0,
        )
        network.train()
        recorder = WatchedRecorder(seen)
        steps = RecordedSteps(learner, "bfloat16", recorder)
        views_BCSS = torch.zeros(4, 1, 16, 16, device="cuda:1")
        cluster_HB = torch.zeros(1, 4, dtype=torch.int64, device="cuda:1")
        weight_B = torch.ones(4, device="cuda:1")
        for step in range(6):
            batch = Batch((views_BCSS,), (1,), cluster_HB, weight_B, torch.arange(4).numpy())
            steps.take(batch, step)

    assert recorder.devices == [{"cuda:1"}] * 3
    assert seen.num_waits == 0
