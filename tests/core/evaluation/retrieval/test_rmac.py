"""From an image of any size to a descriptor. Suffixes: R regions, D filters, H W C of an image."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.evaluation.retrieval.regions import grid_regions
from deepcluster_core.evaluation.retrieval.rmac import (
    RegionReader,
    TooSmallError,
    descriptor,
    fit_whitening,
    last_map,
)
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network


def smallnet(seed: int = 3) -> Network:
    return build_network(NetworkConfig(name="smallnet", image_size=16), channels=3, seed=seed)


def reader_of(network: Network, layer: str = "auto", levels: int = 3) -> RegionReader:
    return RegionReader(
        network, layer=layer, levels=levels, overlap=0.4, device="cpu", precision="float32"
    )


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def random_regions(num_images: int, dims: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    scale_D = torch.arange(1, dims + 1)
    images = (torch.randn(14, dims, generator=generator) for _ in range(num_images))
    return [normalize(image_RD * scale_D) for image_RD in images]


def test_read__the_greatest_of_each_region_of_the_last_map_before_its_pool() -> None:
    image_HWC, network = random_image(64, 88), smallnet().eval()
    nchw = torch.from_numpy(image_HWC).permute(2, 0, 1)[None]
    map_DHW = network.layer_output(nchw, "conv4").detach()[0]
    assert map_DHW.shape == (256, 8, 11), "three max-pools, not four"
    squares = grid_regions(8, 11, levels=3, overlap=0.4)
    expected_RD = torch.stack(
        [map_DHW[:, t : t + s, n : n + s].amax((1, 2)) for t, n, s in squares]
    )

    regions_RD = reader_of(smallnet()).read(image_HWC)

    torch.testing.assert_close(regions_RD, normalize(expected_RD), atol=1e-5, rtol=0)


def test_read__refuses_an_image_of_which_nothing_is_left() -> None:
    reader = reader_of(smallnet())

    assert reader.read(random_image(8, 60)).shape[1] == 256
    for height, width in ((7, 60), (60, 7), (0, 60)):
        with pytest.raises(TooSmallError, match=f"^{width} x {height} pixels.*conv4.*needs 8 or"):
            reader.read(random_image(height, width))


def test_region_reader__refuses_a_layer_without_a_map() -> None:
    with pytest.raises(ConfigError, match="layer 'conv9' is unknown"):
        reader_of(smallnet(), "conv9")
    with pytest.raises(ConfigError, match=r"(?s)backbone.fc6' does not output a map.*--set layer="):
        reader_of(smallnet(), "backbone.fc6")


def test_last_map__of_torchvision_has_to_be_named() -> None:
    config = NetworkConfig(name="torchvision:resnet18", image_size=32, sobel=False)
    network = build_network(config, channels=3, seed=0)

    with pytest.raises(ConfigError, match=r"(?s)no short names.*layer=backbone.NAME.*layer4"):
        last_map(network)
    regions_RD = reader_of(network, "backbone.layer4").read(random_image(96, 128))
    assert regions_RD.shape == (20, 512)


def test_descriptor__regions_weigh_the_same_and_their_sum_has_length_one() -> None:
    images = random_regions(40)
    pca = fit_whitening(images, dims=5, floor=0)

    found_D = descriptor(images[0], pca)

    whitened_RD = (images[0] - pca.mean_D) @ pca.components_QD.T / pca.eigenvalues_Q.sqrt()
    expected_D = normalize(normalize(whitened_RD).sum(dim=0), dim=0)
    torch.testing.assert_close(found_D, expected_D)
    assert len(found_D) == 5


def test_fit_whitening__is_the_pca_of_all_regions() -> None:
    images = random_regions(700)  # more rows than a block
    rows_ND = torch.cat(images).double()
    expected_D = torch.linalg.eigvalsh(torch.cov(rows_ND.T)).flip(0)

    pca = fit_whitening(iter(images), dims=6, floor=0)

    torch.testing.assert_close(pca.eigenvalues_Q.double(), expected_D[:6], rtol=1e-4, atol=0)
    torch.testing.assert_close(pca.mean_D.double(), rows_ND.mean(dim=0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dims", "num_images", "kept"), [(512, 40, 8), (512, 1, 8), (3, 40, 3)])
def test_fit_whitening__keeps_what_there_is(dims: int, num_images: int, kept: int) -> None:
    assert len(fit_whitening(random_regions(num_images), dims=dims, floor=0).eigenvalues_Q) == kept


def test_fit_whitening__fewer_regions_than_filters() -> None:
    (image_RD,) = random_regions(1, dims=64)

    assert len(fit_whitening([image_RD], dims=512, floor=0).eigenvalues_Q) == 13


def test_fit_whitening__small_eigenvalues_count_as_the_floor() -> None:
    images = random_regions(40)
    plain = fit_whitening(images, dims=8, floor=0).eigenvalues_Q

    floored = fit_whitening(images, dims=8, floor=0.1).eigenvalues_Q

    assert plain[-1] < 0.1 * plain[0]
    assert torch.equal(floored, plain.clamp(min=0.1 * plain[0]))


def test_fit_whitening__refuses_what_gives_none() -> None:
    with pytest.raises(FeatureError, match="0 regions are too few"):
        fit_whitening([], dims=8, floor=0)
    with pytest.raises(FeatureError, match="are equal"):
        fit_whitening([torch.ones(14, 8)] * 3, dims=8, floor=0)
    with pytest.raises(FeatureError, match="not finite"):
        fit_whitening([torch.full((14, 8), float("nan"))], dims=8, floor=0)
