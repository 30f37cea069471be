import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.file_names import MODEL
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations.shared.networks import ComparedNetworks, supervised_weights


@pytest.fixture
def weights(network: NetworkConfig, tmp_path: Path) -> Path:
    """Return weights from elsewhere: those of another seed, named as ours."""
    other = restore_network(network, channels=1, seed=99, checkpoint=None)
    path = tmp_path / "supervised.safetensors"
    save_file({name: t.contiguous() for name, t in other.state_dict().items()}, path)
    return path


def states(
    network: NetworkConfig, checkpoint: Path | None, supervised: Path | None
) -> dict[str, dict[str, Tensor]]:
    found = ComparedNetworks(
        network,
        channels=1,
        context=Context(seed=31, epoch=7),
        checkpoint=checkpoint,
        supervised=None if supervised is None else supervised_weights(supervised),
    )
    states = {name: model.state_dict() for name, model in found}
    assert list(states) == found.names
    return states


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_networks__random_trained_and_supervised(
    network: NetworkConfig, checkpoint: Path, weights: Path
) -> None:
    found = states(network, checkpoint, weights)

    expected = {
        "random": restore_network(network, channels=1, seed=31, checkpoint=None),
        "epoch 7": restore_network(network, channels=1, seed=31, checkpoint=checkpoint),
        "supervised": restore_network(network, channels=1, seed=99, checkpoint=None),
    }
    assert list(found) == list(expected)
    for name, model in expected.items():
        assert same(found[name], model.state_dict()), name
    assert not same(found["random"], found["epoch 7"])


def test_networks__only_what_there_is(network: NetworkConfig, checkpoint: Path) -> None:
    assert list(states(network, None, None)) == ["random"]
    assert list(states(network, checkpoint, None)) == ["random", "epoch 7"]


def test_networks__given_weights_are_compared_and_are_the_run_s_without_training(
    network: NetworkConfig, checkpoint: Path, weights: Path
) -> None:
    given = network.model_copy(update={"weights": weights})

    untrained, trained = states(given, None, None), states(given, checkpoint, checkpoint / MODEL)

    assert list(untrained) == ["random", "given weights"]
    assert list(trained) == ["random", "given weights", "epoch 7", "supervised"]
    from_file = restore_network(network, channels=1, seed=99, checkpoint=None).state_dict()
    for found in (untrained, trained):
        assert same(found["given weights"], from_file)
        assert not same(found["random"], from_file)
    assert same(trained["epoch 7"], states(network, checkpoint, None)["epoch 7"])
    for folder, pictured in ((None, "given weights"), (checkpoint, "epoch 7")):
        compared = ComparedNetworks(given, 1, Context(seed=31, epoch=7), folder, None)
        assert compared.pictured == pictured


def test_networks__takes_the_weights_of_a_checkpoint_as_supervised(
    network: NetworkConfig, checkpoint: Path
) -> None:
    found = states(network, checkpoint, checkpoint / MODEL)

    assert same(found["supervised"], found["epoch 7"])


def test_networks__refuses_weights_of_another_network(
    network: NetworkConfig, weights: Path
) -> None:
    wide = network.model_copy(update={"image_size": 32})

    with pytest.raises(
        ArtifactError, match=r"supervised\.safetensors: holds a different network"
    ) as e:
        states(wide, None, weights)
    assert "Fix: save the state_dict" in str(e.value)


@pytest.mark.parametrize("content", [b"", b"no safetensors"])
def test_networks__refuses_what_is_no_file_of_weights(
    network: NetworkConfig, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match=r"weights\.safetensors: .*cannot be read"):
        states(network, None, path)


def test_supervised_weights__digest_is_that_of_the_contents(weights: Path, tmp_path: Path) -> None:
    assert supervised_weights(weights).digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ArtifactError, match="weights trained with labels cannot be read"):
        supervised_weights(tmp_path / "absent.safetensors")
