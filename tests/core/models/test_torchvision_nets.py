import subprocess
import sys

import pytest
import torch
from torch import nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.build import build_network, feature_dim_of
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.torchvision_nets import build_torchvision


@pytest.mark.parametrize(
    ("sobel", "channels", "read"), [(True, 3, 2), (False, 3, 3), (False, 5, 5)]
)
def test_build_network__takes_a_resnet18_of_torchvision(
    sobel: bool, channels: int, read: int
) -> None:
    config = NetworkConfig(name="torchvision:resnet18", image_size=32, sobel=sobel)
    network = build_network(config, channels=channels, seed=0).eval()
    images_NCHW = torch.randint(0, 256, (2, channels, 32, 32), dtype=torch.uint8)

    feature_ND = network.feature(images_NCHW)

    conv = network.get_submodule("backbone.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.in_channels == read
    assert conv.stride == (2, 2)
    assert feature_ND.shape == (2, network.feature_dim) == (2, 512)
    # already after a ReLU and an average: nothing is left to do
    assert torch.equal(network(images_NCHW), feature_ND)
    assert network.layer_feature(images_NCHW, "backbone.layer2").shape == (2, 128)


@pytest.mark.parametrize(
    ("name", "image_size", "feature_dim"),
    [
        ("resnet50", 224, 2048),
        ("vit_b_16", 64, 768),  # has to know the size of its images
        ("swin_t", 64, 768),
        ("regnet_y_400mf", 64, 440),  # cannot be built on the meta device
        ("mobilenet_v3_small", 64, 1024),  # its classifier has two linear layers
        ("inception_v3", 128, 2048),
    ],
)
def test_feature_dim_of__knows_networks_of_torchvision(
    name: str, image_size: int, feature_dim: int
) -> None:
    config = NetworkConfig(name=f"torchvision:{name}", image_size=image_size)
    assert feature_dim_of(config, channels=3) == feature_dim


def test_build_torchvision__has_no_auxiliary_heads_in_training() -> None:
    with torch.device("meta"):
        body = build_torchvision("googlenet", in_channels=3, image_size=64).body.train()
        hidden = body(torch.empty(2, 3, 64, 64))
    assert isinstance(hidden, torch.Tensor)


def test_build_torchvision__suggests_names() -> None:
    with pytest.raises(ConfigError, match=r"no classification network 'resnet5'.*resnet50"):
        build_torchvision("resnet5", in_channels=3, image_size=64)


def test_build_torchvision__refuses_a_network_without_a_linear_head() -> None:
    with pytest.raises(ConfigError, match="squeezenet1_1 does not end in a linear layer"):
        build_torchvision("squeezenet1_1", in_channels=3, image_size=64)


def test_feature_dim_of__says_which_network_and_size_do_not_fit() -> None:
    for name, image_size in (("vit_b_16", 100), ("inception_v3", 32)):
        config = NetworkConfig(name=f"torchvision:{name}", image_size=image_size)
        with pytest.raises(ConfigError, match=f"{name} does not accept .* {image_size} px"):
            feature_dim_of(config, channels=3)


@pytest.mark.slow
def test_models__do_not_import_torchvision_before_it_is_needed() -> None:
    code = (
        "import sys; from deepcluster_core.models.build import *; "
        "feature_dim_of(NetworkConfig(), channels=3); "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
