"""Networks of the optional package timm."""

import pytest
import torch

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.build import accepts_size, build_network, feature_dim_of
from deepcluster_core.models.config import NetworkConfig


def test_build_timm__says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcluster_core.models.timm_nets.find_spec", lambda _: None)
    config = NetworkConfig(name="timm:resnet18", image_size=64)

    with pytest.raises(ConfigError, match=r"package timm, which is not installed.\n  Fix: pip"):
        feature_dim_of(config, channels=3)


@pytest.mark.parametrize(
    ("name", "dim"), [("resnet18", 512), ("vit_tiny_patch16_224", 192), ("convnext_atto", 320)]
)
def test_build_timm__takes_the_two_maps_of_sobel(name: str, dim: int) -> None:
    pytest.importorskip("timm")
    config = NetworkConfig(name=f"timm:{name}", image_size=64)
    network = build_network(config, channels=3, seed=0).eval()
    images_NCSS = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)

    assert feature_dim_of(config, channels=3) == dim
    assert network.feature(images_NCSS).shape == (2, dim)
    # The tokens of a transformer are of one number; convolutions take any size.
    assert accepts_size(config, channels=3, size=96) == (not name.startswith("vit"))


def test_build_timm__suggests_names() -> None:
    pytest.importorskip("timm")
    config = NetworkConfig(name="timm:resnt18", image_size=64)

    with pytest.raises(ConfigError, match=r"no network 'resnt18'\. Did you mean resnet18"):
        feature_dim_of(config, channels=3)


def test_extract_features__keeps_the_activations_of_timms_blocks() -> None:
    pytest.importorskip("timm")
    from deepcluster_core.models.layers import fold_batch_norm  # noqa: PLC0415

    config = NetworkConfig(name="timm:inception_v3", image_size=96, sobel=False)
    network = build_network(config, channels=3, seed=0).eval()
    images_NCSS = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        before_ND = network.feature(images_NCSS)
        fold_batch_norm(network)
        after_ND = network.feature(images_NCSS)

    torch.testing.assert_close(after_ND, before_ND)
