import numpy as np
import pytest

from deepcluster_core.errors import ConfigError
from deepcluster_core.training.config import ScheduleConfig
from deepcluster_core.training.learner import Sgd
from deepcluster_core.training.schedule import schedule_of_epoch

STEPS = 312
PUBLISHED = ScheduleConfig(warmup_epochs=10, start_lr=0.3, final_lr=0.0048, epochs=400)
"""DeepCluster-v2 on ImageNet, batches of 4,096: 4.8 at the top, appendix A.1."""


def lr_at(step: int, keys: ScheduleConfig = PUBLISHED) -> float:
    """Return the learning rate of a step counted over all epochs, through the optimizer."""
    epoch, step_in_epoch = divmod(step, STEPS)
    schedule = schedule_of_epoch(keys, lr=4.8, epoch=epoch, num_steps=STEPS)
    return Sgd(lr=4.8, momentum=0.9, weight_decay=0, schedule=schedule).lr_at(step_in_epoch)


def test_lr_at__published_end_points() -> None:
    assert lr_at(0) == pytest.approx(0.3)
    assert lr_at(5 * STEPS) == pytest.approx((0.3 + 4.8) / 2)
    assert lr_at(10 * STEPS) == pytest.approx(4.8)
    assert lr_at(400 * STEPS - 1) == pytest.approx(0.0048)


def test_lr_at__is_linear_and_then_half_a_cosine() -> None:
    rates = np.array([lr_at(step) for step in range(400 * STEPS)])

    rise, fall = np.split(rates, [10 * STEPS])
    np.testing.assert_allclose(np.diff(rise), 4.5 / (10 * STEPS), rtol=1e-6)
    angle = np.linspace(0, np.pi, 390 * STEPS)
    np.testing.assert_allclose(fall, 0.0048 + 4.7952 * (1 + np.cos(angle)) / 2, rtol=1e-9)


def test_lr_at__without_a_rise_begins_at_the_top() -> None:
    assert lr_at(0, ScheduleConfig(epochs=3)) == 4.8
    assert lr_at(3 * STEPS - 1, ScheduleConfig(epochs=3)) == pytest.approx(0, abs=1e-12)


def test_lr_at__rise_of_half_an_epoch() -> None:
    keys = ScheduleConfig(warmup_epochs=0.5, epochs=2)

    rates = [lr_at(step, keys) for step in range(2 * STEPS)]

    assert np.argmax(rates) == STEPS // 2
    assert max(rates) == 4.8


def test_lr_at__rise_as_long_as_the_schedule_never_falls() -> None:
    keys = ScheduleConfig(warmup_epochs=2, epochs=2)

    rates = [lr_at(step, keys) for step in range(2 * STEPS)]

    assert np.all(np.diff(rates) > 0)
    assert rates[-1] < 4.8


def test_schedule_of_epoch__after_its_end() -> None:
    with pytest.raises(ConfigError, match=r"ends after epoch 399.*epoch 400.*\n.*Fix: lower epoch"):
        schedule_of_epoch(PUBLISHED, lr=4.8, epoch=400, num_steps=STEPS)
