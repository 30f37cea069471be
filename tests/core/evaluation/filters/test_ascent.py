"""Suffixes: T targets, C channels, S side, F filters."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from deepcluster_core.evaluation.filters.ascent import (
    AT_ONCE,
    Ascent,
    Learnt,
    Start,
    blurred,
    climb,
    excitement,
    iterations_for,
    learn_images,
    objective,
    step_along,
)
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.models.network import Network

START = Start(mean=128, std=20, seed=31)
PLAIN = Ascent(step=20, iterations=30, l2=1e-5, blur_sigma=0.3, blur_every=5)


def nothing() -> None: ...


def smallnet(*, sobel: bool = True, size: int = 16) -> Network:
    config = NetworkConfig(name="smallnet", image_size=size, sobel=sobel)
    return build_network(config, channels=3, seed=0).eval()


def starts(layer: str, targets: list[int]) -> tuple[Tensor, Tensor]:
    images = [START.image(layer, target, channels=3, size=16) for target in targets]
    return torch.tensor(targets), torch.stack(images)


@pytest.mark.parametrize("layer", ["conv1", "conv3"])
def test_objective__gradient_equals_finite_differences(layer: str) -> None:
    network = smallnet().double()
    target_T, start_TCSS = starts(layer, [3, 5])
    # A penalty as strong as the rest, so that both parts are seen.
    image_TCSS = start_TCSS.double().requires_grad_()

    def value_of(image_TCSS: Tensor) -> Tensor:
        return objective(network, layer, image_TCSS, target_T, l2=1e-3)

    (gradient_TCSS,) = torch.autograd.grad(value_of(image_TCSS).sum(), image_TCSS)
    ahead_TCSS = torch.randn(
        image_TCSS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    width = 1e-5  # of 255; ReLUs that switch in between are rare
    with torch.no_grad():
        slope_T = value_of(image_TCSS + width * ahead_TCSS) - value_of(
            image_TCSS - width * ahead_TCSS
        )

    along_T = (gradient_TCSS * ahead_TCSS).sum(dim=(1, 2, 3))
    torch.testing.assert_close(along_T, slope_T / (2 * width), rtol=1e-5, atol=1e-9)


def test_objective__by_hand() -> None:
    network = smallnet(sobel=False).double()
    target_T, start_TCSS = starts("conv2", [1, 7])
    image_TCSS = start_TCSS.double()

    map_TFHW = network.layer_output(image_TCSS / 255, "conv2")
    expected_T = -nn.functional.cross_entropy(map_TFHW.mean((2, 3)), target_T, reduction="none")
    std_C11 = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    mean_C11 = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    size_T = (((image_TCSS / 255) - mean_C11) / std_C11).square().sum((1, 2, 3))

    found_T = objective(network, "conv2", image_TCSS, target_T, l2=0.01)
    # The network holds mean and std in float32.
    torch.testing.assert_close(found_T, expected_T - 0.01 * size_T, rtol=1e-6, atol=0)


def test_objective__a_target_that_is_0_after_its_relu_has_a_gradient() -> None:
    network = smallnet().double()
    norm = network.get_submodule("backbone.maps.conv2.bn")
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.constant_(norm.bias[3:4], -5)
    target_T, start_TCSS = starts("conv2", [3, 4])
    image_TCSS = start_TCSS.double().requires_grad_()
    dead, alive = excitement(network, "conv2", image_TCSS, target_T).activation_T
    assert dead == 0 < alive

    value_T = objective(network, "conv2", image_TCSS, target_T, l2=0)
    (gradient_TCSS,) = torch.autograd.grad(value_T.sum(), image_TCSS)

    raw_TF = network.layer_output(image_TCSS / 255, network.taps["conv2"]).mean((2, 3))
    assert value_T[0].item() == pytest.approx(raw_TF.log_softmax(1)[0, 3].item())
    assert gradient_TCSS[0].any()
    # The other image of the batch is as if alone.
    alone = objective(network, "conv2", image_TCSS[1:], target_T[1:], l2=0)
    torch.testing.assert_close(value_T[1:], alone)


@pytest.mark.parametrize("layer", ["conv1", "conv4"])
def test_climb__raises_objective_activation_and_probability(layer: str) -> None:
    network = smallnet()
    target_T, start_TCSS = starts(layer, [0, 7, 20, 31])

    image_TCSS = climb(network, layer, target_T, start_TCSS, PLAIN, stepped=nothing)

    before, after = (excitement(network, layer, i, target_T) for i in (start_TCSS, image_TCSS))
    assert (after.log_probability_T > before.log_probability_T).all()
    assert (after.activation_T > before.activation_T).all()
    rise_T = objective(network, layer, image_TCSS, target_T, l2=PLAIN.l2) - objective(
        network, layer, start_TCSS, target_T, l2=PLAIN.l2
    )
    assert (rise_T > 0).all()


def test_climb__steps_have_their_length_and_every_fifth_is_blurred() -> None:
    network = smallnet()
    target_T, start_TCSS = starts("conv2", [1, 2])
    ascent = Ascent(step=7, iterations=4, l2=1e-5, blur_sigma=0.6, blur_every=5)
    path = [start_TCSS]
    for number in range(1, 6):
        once = Ascent(**vars(ascent) | {"iterations": number})
        path.append(climb(network, "conv2", target_T, start_TCSS, once, stepped=nothing))

    for before, after in pairwise(path[:5]):
        # Differences of float32 numbers around 128, 768 of them.
        length_T = (after - before).flatten(1).norm(dim=1)
        torch.testing.assert_close(length_T, torch.full((2,), 7.0), rtol=1e-4, atol=0)
    unblurred = Ascent(**vars(ascent) | {"iterations": 5, "blur_sigma": 0})
    fifth = climb(network, "conv2", target_T, start_TCSS, unblurred, stepped=nothing)
    torch.testing.assert_close(path[5], blurred(fifth, 0.6))
    assert not torch.equal(path[5], fifth)


def test_climb__images_do_not_depend_on_those_beside_them() -> None:
    network = smallnet().double()
    target_T, start_TCSS = starts("conv3", [5, 6, 7])
    of: Callable[[slice], Tensor] = lambda part: climb(  # noqa: E731
        network, "conv3", target_T[part], start_TCSS[part].double(), PLAIN, stepped=nothing
    )

    # Float64: batches of another size add up in another order.
    torch.testing.assert_close(of(slice(0, 3))[1:2], of(slice(1, 2)), rtol=1e-9, atol=1e-9)


def test_step_along__tiny_gradients_count_and_zero_ones_stay() -> None:
    gradient_TCSS = torch.zeros(3, 1, 2, 2)
    gradient_TCSS[0, 0] = torch.tensor([[3.0, 0], [0, -4.0]])
    gradient_TCSS[1, 0] = torch.tensor([[3e-30, 0], [0, -4e-30]])  # squares are 0 in float32

    step_TCSS = step_along(gradient_TCSS, 10)

    expected = torch.tensor([[6.0, 0], [0, -8.0]])
    torch.testing.assert_close(step_TCSS[0, 0], expected)
    torch.testing.assert_close(step_TCSS[1, 0], expected)
    assert not step_TCSS[2].any()


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.8, 2.0])
def test_blurred__equals_scipys(sigma: float) -> None:
    image_TCSS = np.random.default_rng(0).normal(128, 20, (2, 3, 12, 12))

    found_TCSS = blurred(torch.tensor(image_TCSS), sigma).numpy()

    expected_TCSS = gaussian_filter(image_TCSS, sigma, mode="nearest", axes=(2, 3))
    np.testing.assert_allclose(found_TCSS, expected_TCSS, rtol=1e-12)


def test_iterations_for__of_figure_4() -> None:
    assert iterations_for(3, channels=3, size=224) == 30_000
    assert iterations_for(30, channels=3, size=224) == 3_000
    # A grey image of 32 px has 1,024 values, that of figure 4 has 150,528: steps weigh more.
    assert iterations_for(30, channels=1, size=32) == round(3_000 * math.sqrt(1_024 / 150_528))
    assert iterations_for(1e9, channels=1, size=1) == 1


def test_start__is_noise_of_its_own_for_each_target() -> None:
    start_CSS = START.image("conv1", 3, channels=3, size=64)
    # 12,288 draws: the mean spreads by 0.18, the deviation by 0.13.
    assert start_CSS.mean().item() == pytest.approx(128, abs=1)
    assert start_CSS.std().item() == pytest.approx(20, abs=0.7)
    assert torch.equal(start_CSS, START.image("conv1", 3, channels=3, size=64))
    for other in (("conv1", 4), ("conv2", 3)):
        assert not torch.equal(start_CSS, START.image(*other, channels=3, size=64))


def test_learn_images__in_passes_and_as_bytes() -> None:
    network = smallnet()
    fold_batch_norm(network)
    steps = 0

    def stepped() -> None:
        nonlocal steps
        steps += 1

    targets = [n % 32 for n in range(AT_ONCE + 2)]
    ascent = Ascent(step=900, iterations=3, l2=0, blur_sigma=0, blur_every=1)
    learnt: list[Learnt] = list(
        learn_images(
            network, "conv1", targets, ascent=ascent, start=START, size=16, stepped=stepped
        )
    )

    assert steps == 2 * 3
    assert len(learnt) == len(targets)
    assert {image.image_SSC.shape for image in learnt} == {(16, 16, 3)}
    assert learnt[0].image_SSC.min() == 0, "steps of 900 lead beyond 0 to 255"
    assert learnt[0].image_SSC.max() == 255
    # The same target in the second pass, beside one other; float32 in another order.
    assert learnt[AT_ONCE].activation == pytest.approx(learnt[0].activation, rel=1e-3)
    assert learnt[0].activation > learnt[0].start_activation
    assert learnt[0].log_probability > learnt[0].start_log_probability
