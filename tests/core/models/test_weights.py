"""Files of weights that a network begins with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.build import build_network, check_weights
from deepcluster_core.models.config import NetworkConfig, ProjectionConfig
from deepcluster_core.models.network import Network

CONFIG = NetworkConfig(name="torchvision:resnet18", image_size=32, sobel=False)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Return the state_dict of a ResNet-18 with a classifier, as torchvision names it."""
    from torchvision.models import resnet18  # noqa: PLC0415  slow

    with torch.random.fork_rng():
        torch.manual_seed(123)
        state: dict[str, Tensor] = resnet18().state_dict()
    state["bn1.running_mean"] += 0.5
    return state


def start(path: Path, config: NetworkConfig = CONFIG) -> Network:
    return build_network(config.model_copy(update={"weights": path}), channels=3, seed=1)


def refused(path: Path, config: NetworkConfig = CONFIG) -> str:
    """Return the error, which is equal with and without allocated weights."""
    with pytest.raises(ConfigError) as built:
        start(path, config)
    with pytest.raises(ConfigError) as checked:
        check_weights(config.model_copy(update={"weights": path}), channels=3)
    assert str(built.value) == str(checked.value)
    return str(built.value)


def spelled(prefix: str) -> Any:  # noqa: ANN401
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda state: state, id="torchvision"),
        pytest.param(spelled("backbone."), id="a run's checkpoint"),
        pytest.param(spelled("module."), id="DataParallel"),
        pytest.param(
            lambda state: {"state_dict": spelled("module.")(state), "epoch": 3}, id="checkpoint"
        ),
        pytest.param(
            lambda state: {"teacher": spelled("module.backbone.")(state), "student": {}}, id="DINO"
        ),
        pytest.param(
            lambda state: (
                {n: t for n, t in state.items() if not n.startswith("fc.")}
                | {"projection_head.0.weight": torch.ones(2), "prototypes.weight": torch.ones(2)}
            ),
            id="SwAV",
        ),
        pytest.param(
            lambda state: {n: t for n, t in state.items() if "num_batches" not in n}, id="old"
        ),
    ],
)
def test_build_network__begins_with_the_weights_of_a_file(
    change: Any,  # noqa: ANN401
    trained: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(change(trained), path)

    weights = start(path).backbone.state_dict()

    for name, tensor in weights.items():
        assert torch.equal(tensor, trained[name]), name
    check_weights(CONFIG.model_copy(update={"weights": path}), channels=3)


def test_build_network__projection_keeps_its_random_weights(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(trained, path)
    config = CONFIG.model_copy(update={"projection": ProjectionConfig(hidden=8, dim=4)})

    network, random = start(path, config), build_network(config, channels=3, seed=1)

    assert torch.equal(network.backbone.get_parameter("conv1.weight"), trained["conv1.weight"])
    own, expected = network.state_dict(), random.state_dict()
    for name in own:
        if name.startswith("projection."):
            assert torch.equal(own[name], expected[name]), name


def test_build_network__names_what_is_missing_and_what_the_file_is(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(trained, path)

    text = refused(path, CONFIG.model_copy(update={"name": "torchvision:resnet50"}))

    assert f"network.weights: {path} does not hold weights of torchvision:resnet50" in text
    assert "tensors of the network are missing: layer1.0.conv3.weight" in text
    assert "a ResNet-18 (basic blocks)" in text


def test_build_network__refuses_tensors_that_do_not_belong_to_it(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(trained | {"queue": torch.ones(3)}, path)

    assert "1 tensors do not belong to it: queue" in refused(path)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"sobel": True}, "reads 3 channels, the network's 2, the two maps of the Sobel filter"),
        ({"name": "resnet18-small"}, r"conv1.weight is (64, 3, 7, 7), but resnet18-small needs"),
    ],
)
def test_build_network__names_the_first_layer_that_differs(
    changes: dict[str, Any], cause: str, trained: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(trained, path)

    text = refused(path, CONFIG.model_copy(update=changes))

    assert cause in text
    if "sobel" in changes:
        assert "Fix:   set network.sobel: false and dataset.channels: 3" in text


class RunsCode:
    """An object that would run code if a pickle of it were loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("content", "name", "cause"),
    [
        (None, "weights.pth", "No such file"),
        (b"nothing", "weights.pth", "Cause: "),
        (b"nothing", "weights.safetensors", "Cause: "),
        (RunsCode(), "weights.pth", "could run code"),
        ({"epoch": 3}, "weights.pth", "it holds a dict without tensors"),
    ],
)
def test_build_network__explains_a_file_that_cannot_be_read(
    content: object,
    name: str,
    cause: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)

    text = refused(path)

    assert f"network.weights: {path} cannot be read" in text
    assert cause in text
    assert "Fix:" in text
    assert capsys.readouterr().out == ""
