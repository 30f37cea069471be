import torch
from torch import nn

from deepcluster_core.training.average import WeightAverage


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def move(module: nn.Module, by: float) -> None:
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(by)


def test_update__is_the_recurrence_of_an_exponential_average() -> None:
    module = network()
    average = WeightAverage(module, share=0.75, start=None)
    expected = module.get_parameter("0.weight").detach().clone()

    for step in range(5):
        move(module, 0.1 * step)
        average.update()
        expected = 0.75 * expected + 0.25 * module.get_parameter("0.weight").detach()

    torch.testing.assert_close(average.weights()["0.weight"], expected)


def test_state_dict__has_averaged_weights_and_the_statistics_of_the_network() -> None:
    module = network()
    average = WeightAverage(module, share=0.5, start=None)
    before = module.get_parameter("0.weight").detach().clone()
    module(torch.randn(8, 3))
    move(module, 1.0)
    average.update()

    state = average.state_dict()

    assert state.keys() == module.state_dict().keys()
    torch.testing.assert_close(state["0.weight"], before + 0.5)
    assert torch.equal(state["1.running_mean"], module.state_dict()["1.running_mean"])
    assert state["1.num_batches_tracked"] == 1
    # The network itself is not changed.
    torch.testing.assert_close(module.get_parameter("0.weight").detach(), before + 1)


def test_init__continues_an_earlier_average() -> None:
    module = network()
    earlier = {name: torch.full_like(tensor, 7) for name, tensor in module.state_dict().items()}

    average = WeightAverage(module, share=0.5, start=earlier)

    assert torch.all(average.weights()["0.bias"] == 7)
    average.update()
    assert torch.all(earlier["0.bias"] == 7), "it is a copy"
    assert not torch.all(average.weights()["0.bias"] == 7)
