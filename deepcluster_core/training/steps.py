"""How the operations of a training step get to the device: one by one, or as one CUDA graph.

A step of AlexNet is about 180 small programs of a GPU. Starting them one by one can take the CPU as
long as the GPU needs to run them, and longer while other threads load images. A CUDA graph is
recorded once in an epoch and then started by one call.

A recorded step reads its input, and its learning rate, from the same memory each time; they are
copied there first. Its dropout draws what an eager step draws, because torch hands the seed and the
offset of its generator to the graph whenever it starts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from deepcluster_core.config import Precision
from deepcluster_core.context import StepName

if TYPE_CHECKING:
    from deepcluster_core.training.epoch import Batch, DeviceBatch, PseudoLabelLearner

WARM_UP_STEPS = 3
"""Steps before the recording, in which libraries choose their programs and get their memory."""


class TakeStep(Protocol):
    """Takes the steps of an epoch."""

    def __call__(self, batch: "Batch", step: int) -> Tensor:
        """Learn from a batch in the step of this number; return its loss, on the device."""
        ...


class Recorder(Protocol):
    """Records work of a device, to repeat it."""

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do work where it will be recorded."""
        ...

    def record(self, work: Callable[[], object]) -> None:
        """Record work without doing it."""
        ...

    def replay(self) -> None:
        """Do the recorded work."""
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


class RecordedSteps:
    """Takes a few eager steps, records one, and then replays it.

    Batches of another size, such as the last one of an epoch, are learned from eagerly.
    """

    def __init__(
        self, learner: "PseudoLabelLearner", precision: Precision, recorder: Recorder
    ) -> None:
        self._learner = learner
        self._precision: Precision = precision
        self._recorder = recorder
        self._num_warm = 0
        self._input: DeviceBatch | None = None
        self._loss: Tensor | None = None
        self._outputs: tuple[Tensor, Tensor | None] | None = None
        learner.keep_lr_on_device()

    def take(self, batch: "Batch", step: int) -> Tensor:
        """Learn from a batch in the step of this number; return its loss.

        The next call overwrites the loss and what the learner keeps for `finish_step`.
        """
        given = batch.on_device(self._learner.device)
        if self._input is None and self._num_warm == WARM_UP_STEPS:
            self._record(given, step)
        with self._learner.prepared(step):
            if self._input is None:
                return self._warm_up(given)
            if given.shapes != self._input.shapes:
                return self._compute(given)
            for kept, new in zip(self._input.tensors, given.tensors, strict=True):
                kept.copy_(new)
            self._recorder.replay()
        assert self._loss is not None
        assert self._outputs is not None
        self._learner.outputs = self._outputs  # an eager step may have replaced them
        return self._loss

    def _warm_up(self, given: "DeviceBatch") -> Tensor:
        losses: list[Tensor] = []
        self._recorder.warm_up(lambda: losses.append(self._compute(given)))
        self._num_warm += 1
        return losses[0]

    def _record(self, given: "DeviceBatch", step: int) -> None:
        kept = self._input = given.copy()

        def work() -> None:
            self._loss = self._compute(kept)
            self._outputs = self._learner.outputs

        with self._learner.prepared(step):
            self._recorder.record(work)

    def _compute(self, given: "DeviceBatch") -> Tensor:
        learner = self._learner
        return learner.compute_step(lambda: learner.loss_on_device(given, self._precision))


class CudaRecorder:
    """Records a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        # Recording is not possible in the default stream. Warm-up uses the same one, because
        # autograd remembers in which stream it has first seen a weight.
        self._stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do work in the stream of the recording."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Callable[[], object]) -> None:
        """Record work without doing it."""
        # Other threads may call CUDA meanwhile, such as those of the feed, which get pinned memory.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            work()

    def replay(self) -> None:
        """Do the recorded work in the current stream."""
        self._graph.replay()
