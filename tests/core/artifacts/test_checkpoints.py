"""Networks and momentum on disk."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.artifacts.checkpoints import (
    load_average,
    load_backbone,
    load_momentum,
    restore_network,
    write_checkpoint,
)
from deepcluster_core.artifacts.file_names import MODEL, MOMENTUM
from deepcluster_core.errors import ArtifactError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network

CONFIG = NetworkConfig(name="smallnet", image_size=16)


def restore(seed: int = 31, checkpoint: Path | None = None, *, channels: int = 3) -> Network:
    return restore_network(CONFIG, channels=channels, seed=seed, checkpoint=checkpoint)


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    state, expected = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name


def trained(seed: int = 5) -> Network:
    """Return a network whose weights and running statistics are not those of any seed."""
    network = restore(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(1)
    return network


def test_write_checkpoint__round_trip(tmp_path: Path) -> None:
    network = trained()

    write_checkpoint(tmp_path, backbone=network, momentum={})

    assert_same_state(restore(checkpoint=tmp_path), network)


def test_write_checkpoint__channels_last_weights_come_back_in_their_order(tmp_path: Path) -> None:
    network, folders = trained(), (tmp_path / "plain", tmp_path / "channels_last")
    for folder in folders:
        folder.mkdir()

    write_checkpoint(folders[0], backbone=network, momentum={})
    network.to(memory_format=torch.channels_last)
    write_checkpoint(folders[1], backbone=network, momentum={})

    assert_same_state(restore(checkpoint=folders[1]), network)
    one, other = ((folder / MODEL).read_bytes() for folder in folders)
    assert one == other, "the order in memory must not change the digest"


@pytest.mark.parametrize(
    "name", ["smallnet", "alexnet", "torchvision:resnet18", "torchvision:regnet_y_400mf"]
)
def test_restore_network__of_a_checkpoint_has_all_that_a_new_one_has(
    name: str, tmp_path: Path
) -> None:
    config = NetworkConfig(name=name, image_size=64)
    new = restore_network(config, channels=1, seed=7, checkpoint=None)
    write_checkpoint(tmp_path, backbone=new, momentum={})

    restored = restore_network(config, channels=1, seed=8, checkpoint=tmp_path)

    expected = dict([*new.named_parameters(), *new.named_buffers()])
    found = dict([*restored.named_parameters(), *restored.named_buffers()])
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():  # those that are not saved too: mean, std, Sobel
        assert torch.equal(found[key], tensor), key
    assert restored.training


def test_restore_network__of_a_checkpoint_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, backbone=restore(), momentum={})
    before = torch.get_rng_state()

    restore(checkpoint=tmp_path)

    assert torch.equal(torch.get_rng_state(), before)


def test_restore_network__without_a_checkpoint_is_what_the_seed_says() -> None:
    assert_same_state(restore(seed=31), restore(seed=31))
    first, other = restore(seed=31).state_dict(), restore(seed=32).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_load_backbone__refuses_another_network_and_names_the_tensor(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, backbone=restore(), momentum={})
    wider = restore_network(
        NetworkConfig(name="smallnet", image_size=32), channels=3, seed=1, checkpoint=None
    )

    with pytest.raises(
        ArtifactError,
        match=r"backbone\.fc5\.weight is \(256, 256\), expected \(256, 1024\) \(1 such tensors\)",
    ):
        load_backbone(tmp_path, wider)


def test_load_backbone__refuses_absent_tensors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, backbone=nn.Linear(2, 2), momentum={})

    with pytest.raises(ArtifactError, match=r"is absent, expected|expected absent"):
        load_backbone(tmp_path, restore())


@pytest.mark.parametrize("name", [MODEL, MOMENTUM])
@pytest.mark.parametrize("keep", [0, 4, -100])
def test_load__cut_file_is_an_error_for_the_user(tmp_path: Path, name: str, keep: int) -> None:
    momentum = {"backbone.fc6.bias": torch.ones(256)}
    write_checkpoint(tmp_path, backbone=restore(), momentum=momentum)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])

    with pytest.raises(ArtifactError, match=rf"{name}: cannot be read .*\n.*stage train"):
        load_momentum(tmp_path) if name == MOMENTUM else load_backbone(tmp_path, restore())


def test_load_average__is_read_by_all_but_training(tmp_path: Path) -> None:
    network, averaged = trained(), trained(seed=6)

    write_checkpoint(tmp_path, backbone=network, momentum={}, average=averaged.state_dict())

    assert_same_state(restore(checkpoint=tmp_path), averaged)
    for_training = restore(seed=1)
    load_backbone(tmp_path, for_training, averaged=False)
    assert_same_state(for_training, network)
    state = load_average(tmp_path)
    assert state is not None
    assert state.keys() == network.state_dict().keys()


def test_load_average__of_a_checkpoint_without_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, backbone=trained(), momentum={})

    assert load_average(tmp_path) is None


def test_load_momentum__missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{MOMENTUM}: cannot be read"):
        load_momentum(tmp_path)


def test_load_momentum__round_trip(tmp_path: Path) -> None:
    network = restore()
    generator = torch.Generator().manual_seed(0)
    momentum: dict[str, Tensor] = {
        name: torch.randn(parameter.shape, generator=generator)
        for name, parameter in network.named_parameters()
    }

    write_checkpoint(tmp_path, backbone=network, momentum=momentum)

    found = load_momentum(tmp_path)
    assert found.keys() == momentum.keys()
    for name, tensor in momentum.items():
        assert torch.equal(found[name], tensor), name


def test_load_momentum__of_an_optimiser_without_momentum_is_empty(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, backbone=restore(), momentum={})

    assert load_momentum(tmp_path) == {}


def test_write_checkpoint__has_the_permissions_of_other_new_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, backbone=restore(), momentum={})
    (tmp_path / "other").touch()

    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert set(modes.values()) == {modes["other"]}
