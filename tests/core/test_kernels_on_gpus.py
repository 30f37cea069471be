"""Kernels, the feed and recorded steps on a real GPU, against the CPU. Skipped without one."""

from collections.abc import Sequence

import pytest
import torch

from deepcluster_core.artifacts.images import Images
from deepcluster_core.device_feed.crops import crop_resized
from deepcluster_core.device_feed.feed import Feed
from deepcluster_core.device_feed.source import source_of
from deepcluster_core.models.sobel import Sobel
from deepcluster_core.training.steps import CudaRecorder, RecordedSteps
from tests.core.device_feed.test_crops import ROUNDING, boxes_together
from tests.core.device_feed.test_feed import BATCHES, expected, request_for, stored
from tests.core.device_feed.test_kernel import KERNEL_ERROR
from tests.core.training.test_epoch import state
from tests.core.training.test_steps import SGD, batches, learner

__all__ = ["stored"]  # a fixture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("channels", "last"), [(1, False), (3, True)])
def test_crop_resized__is_torchs_antialiased_resizing(channels: int, last: bool) -> None:
    bytes_X, table, expected_VCSS = boxes_together(channels, size=11)
    out_VCSS = torch.empty(
        expected_VCSS.shape,
        device="cuda",
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )

    crop_resized(bytes_X.cuda(), table, torch.from_numpy(table.fields_VF).cuda(), out_VCSS)

    torch.testing.assert_close(out_VCSS.cpu(), expected_VCSS, rtol=0, atol=KERNEL_ERROR)


@pytest.mark.parametrize("shape", [(4, 1, 11, 37), (2, 3, 224, 224), (3, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_sobel__equals_that_of_the_cpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    if dtype == torch.float32:
        images_NCHW = images_NCHW / 255
    sobel = Sobel((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    found_N2HW = sobel(images_NCHW.cuda()).cpu()

    torch.testing.assert_close(found_N2HW, sobel(images_NCHW), rtol=0, atol=2e-5)


def test_feed__has_the_views_of_the_cpu(stored: Images) -> None:
    feed = Feed(source_of(stored), channels=3, device="cuda", is_verified=True, num_slots=3)

    found = list(feed.batches(map(request_for, BATCHES), workers=2))

    for batch, ids in zip(found, BATCHES, strict=True):
        assert batch.views[0].is_cuda
        torch.testing.assert_close(
            batch.views[0].cpu(), expected(stored, ids), rtol=0, atol=ROUNDING, msg=str(ids)
        )


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((12,) * 9 + (5,), id="a smaller last batch"),
        pytest.param((12, 12, 12, 7), id="which is the fourth"),
        pytest.param((12, 13) * 6, id="two sizes in turn"),
    ],
)
def test_recorded_steps__learn_what_eager_steps_learn(sizes: Sequence[int]) -> None:
    given = batches(sizes)
    eager, recorded = learner(SGD, "cuda"), learner(SGD, "cuda")
    steps = RecordedSteps(recorded, "float32", CudaRecorder(torch.device("cuda")))

    losses: list[tuple[float, float]] = []
    for number, one in enumerate(given):
        expected_loss = float(eager.learn(one, number, precision="float32"))
        losses.append((float(steps.take(one, number)), expected_loss))

    assert [found for found, _ in losses] == pytest.approx([loss for _, loss in losses], rel=1e-3)
    for name, weight in state(eager).items():
        torch.testing.assert_close(state(recorded)[name], weight, rtol=1e-3, atol=1e-4, msg=name)
