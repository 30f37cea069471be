"""How the operations of a training step get to the device: one by one, or as one CUDA graph.

A step of AlexNet is about 180 small programs of a GPU. Starting them one by one can take the CPU as
long as the GPU needs to run them, and longer while other threads load images. A CUDA graph is
recorded once in an epoch, for each usual size of its batches, and then started by one call.

A recorded step reads its input, and its learning rate, from the same memory each time; they are
copied there first. Its dropout draws what an eager step draws, because torch hands the seed and the
offset of its generator to the graph whenever it starts.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from deepcluster_core.config import Precision
from deepcluster_core.context import StepName

if TYPE_CHECKING:
    from deepcluster_core.training.epoch import Batch, DeviceBatch, PseudoLabelLearner

WARM_UP_STEPS = 3
"""Steps before a recording, in which libraries choose their programs and get their memory."""
MOST_RECORDED = 2
"""Sizes of batches for which a step is recorded: where batches are cut evenly, there are two."""
Shapes = tuple[tuple[int, ...], ...]
"""The shapes of the tensors of a batch."""


class TakeStep(Protocol):
    """Takes the steps of an epoch."""

    def __call__(self, batch: "Batch", step: int) -> Tensor:
        """Learn from a batch in the step of this number; return its loss, on the device."""
        ...


class Recorder(Protocol):
    """Records work of a device, to repeat it."""

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do work where other work is recorded."""
        ...

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        """Record work without doing it; return what does it."""
        ...


@contextmanager
def steps_of(
    learner: "PseudoLabelLearner", precision: Precision, name: StepName | None
) -> Iterator[TakeStep]:
    """Yield what takes the steps of an epoch.

    Args:
        learner: what learns.
        precision: number format of the forward pass.
        name: how the steps are taken; None for a graph where that is possible.
    """
    device = torch.device(learner.device)
    with _chosen_convolutions() if device.type == "cuda" else nullcontext():
        if name != "eager" and device.type == "cuda" and learner.is_recordable:
            yield RecordedSteps(learner, precision, CudaRecorder(device)).take
        else:
            yield partial(learner.learn, precision=precision)


@contextmanager
def _chosen_convolutions() -> Iterator[None]:
    """Let cuDNN measure which of its programs is fastest for each convolution, inside the block."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@dataclass
class Recorded:
    """A step that was recorded for batches of one size."""

    input: "DeviceBatch"
    """Where it reads its batch."""
    replay: Callable[[], None] | None = None
    loss: Tensor | None = None
    """Where it writes its loss."""
    outputs: tuple[Tensor, Tensor | None] | None = None
    """Where it writes what the learner keeps for `finish_step`."""


class RecordedSteps:
    """Takes a few eager steps, records one, and then replays it.

    A step is recorded for each size of batches that comes often, after eager steps of that very
    size: a library that meets a new size while a graph is recorded measures its programs, which
    ends the recording with an error. Batches of another size, such as the last one of an epoch, are
    learned from eagerly.
    """

    def __init__(
        self, learner: "PseudoLabelLearner", precision: Precision, recorder: Recorder
    ) -> None:
        self._learner = learner
        self._precision: Precision = precision
        self._recorder = recorder
        self._num_warm: Counter[Shapes] = Counter()
        self._recorded: dict[Shapes, Recorded] = {}
        learner.keep_lr_on_device()

    def take(self, batch: "Batch", step: int) -> Tensor:
        """Learn from a batch in the step of this number; return its loss.

        The next call overwrites the loss and what the learner keeps for `finish_step`.
        """
        given = batch.on_device(self._learner.device)
        if self._is_to_be_recorded(given.shapes):
            self._recorded[given.shapes] = self._record(given, step)
        recorded = self._recorded.get(given.shapes)
        with self._learner.prepared(step):
            if recorded is None:
                return self._take_eagerly(given)
            for kept, new in zip(recorded.input.tensors, given.tensors, strict=True):
                kept.copy_(new)
            assert recorded.replay is not None
            recorded.replay()
        assert recorded.loss is not None
        assert recorded.outputs is not None
        self._learner.outputs = recorded.outputs  # another step has replaced them
        return recorded.loss

    def _is_to_be_recorded(self, shapes: Shapes) -> bool:
        is_new = shapes not in self._recorded and len(self._recorded) < MOST_RECORDED
        return is_new and self._num_warm[shapes] == WARM_UP_STEPS

    def _take_eagerly(self, given: "DeviceBatch") -> Tensor:
        losses: list[Tensor] = []
        self._recorder.warm_up(lambda: losses.append(self._compute(given)))
        self._num_warm[given.shapes] += 1
        return losses[0]

    def _record(self, given: "DeviceBatch", step: int) -> Recorded:
        recorded = Recorded(given.copy())

        def work() -> None:
            recorded.loss = self._compute(recorded.input)
            recorded.outputs = self._learner.outputs

        with self._learner.prepared(step):
            recorded.replay = self._recorder.record(work)
        return recorded

    def _compute(self, given: "DeviceBatch") -> Tensor:
        learner = self._learner
        return learner.compute_step(lambda: learner.loss_on_device(given, self._precision))


class CudaRecorder:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Recording is not possible in the default stream. Eager steps use the same one, because
        # autograd remembers in which stream it has first seen a weight.
        self._stream = torch.cuda.Stream(device)
        # The graphs never run at the same time, and nothing that one has written is read after
        # another one has run, so that they use the same memory.
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do work in the stream of the recordings."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        """Record work without doing it; return what does it in the current stream."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may call CUDA meanwhile, such as those of the feed, which get pinned memory.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        return graph.replay
