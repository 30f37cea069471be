"""Images and checkpoint in, features out. Suffixes: N images, D dims, B batch, S side, C."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import Condition, Manifest, inspect, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.data.views import center_view
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.models.config import NetworkConfig
from stages.extract import ExtractConfig
from stages.extract import extract as stage

PLAIN = ExtractConfig(resize=20, dtype="float32", precision="float32")
CONTEXT = Context(seed=31, epoch=0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "features"


def extracted(out: Path) -> NDArray[np.float32]:
    return np.concatenate(list(Features(out).blocks())).astype(np.float32)


def extract(
    images: Path,
    network: NetworkConfig,
    out: Path,
    *,
    config: ExtractConfig = PLAIN,
    checkpoint: Path | None = None,
    context: Context = CONTEXT,
) -> Manifest:
    stage.run(
        extract=config,
        network=network,
        images=images,
        checkpoint=checkpoint,
        out=out,
        context=context,
    )
    return read_manifest(out)


def by_hand(images: Path, network: NetworkConfig, checkpoint: Path | None) -> NDArray[np.float32]:
    """Return feature_ND one image at a time, in the plainest way."""
    model = restore_network(network, channels=1, seed=31, checkpoint=checkpoint).eval()
    stored = Images(images)
    rows: list[NDArray[np.float32]] = []
    for image_id in range(len(stored)):
        view_SSC = center_view(stored[image_id], resize=20, size=16)
        images_1CSS = torch.from_numpy(np.array(view_SSC)).permute(2, 0, 1)[None]
        with torch.no_grad():
            rows.append(model.feature(images_1CSS)[0].numpy())
    return np.stack(rows)


def test_run__writes_float16_rows_of_the_features_width(features: Path) -> None:
    manifest, stored = read_manifest(features), Features(features)

    assert inspect(features)[0] is Condition.WHOLE
    assert (manifest.rows, manifest.facts["dim"], manifest.epoch) == (240, 256, 0)
    assert (stored.num_images, stored.dim) == (240, 256)
    assert next(stored.blocks()).dtype == np.float16, "the default"


@pytest.mark.parametrize("trained", [False, True], ids=["initial", "checkpoint"])
def test_run__row_i_is_the_feature_of_image_i(
    images: Path, network: NetworkConfig, checkpoint: Path, out: Path, *, trained: bool
) -> None:
    at = checkpoint if trained else None
    extract(images, network, out, checkpoint=at, config=PLAIN)

    # Another batch size sums in another order, as do folded batch normalisations: 1e-4 is some
    # hundred roundings of float32.
    np.testing.assert_allclose(extracted(out), by_hand(images, network, at), rtol=1e-4, atol=1e-4)


def test_run__checkpoint_changes_the_features(
    images: Path, network: NetworkConfig, features: Path, checkpoint: Path, out: Path
) -> None:
    manifest = extract(images, network, out, checkpoint=checkpoint, config=ExtractConfig(resize=20))

    assert manifest.inputs["checkpoint"] == read_manifest(checkpoint).digest
    assert manifest.key != read_manifest(features).key
    assert manifest.digest != read_manifest(features).digest


def test_run__without_checkpoint_the_seed_decides(
    images: Path, network: NetworkConfig, tmp_path: Path
) -> None:
    once, again, other = (
        extract(images, network, tmp_path / str(number), context=replace(CONTEXT, seed=seed))
        for number, seed in enumerate((31, 31, 32))
    )

    assert once.digest == again.digest
    assert once.digest != other.digest


@pytest.mark.parametrize("workers", [1, 5])
def test_run__same_digest_with_any_number_of_workers(
    images: Path, network: NetworkConfig, features: Path, out: Path, workers: int
) -> None:
    context = replace(CONTEXT, workers=workers)
    config = ExtractConfig(resize=20, precision="float32")

    manifest = extract(images, network, out, config=config, context=context)

    assert manifest.digest == read_manifest(features).digest
    assert manifest.key == read_manifest(features).key


@pytest.mark.parametrize("batch_size", [1, 7, 240, 1000])
def test_run__eval_mode_does_not_mix_the_images_of_a_batch(
    images: Path, network: NetworkConfig, features: Path, out: Path, batch_size: int
) -> None:
    config = PLAIN.model_copy(update={"batch_size": batch_size})

    extract(images, network, out, config=config)

    # float16 rounds the rows of the default batch size by 2^-11 = 0.05 %. In training mode, batch
    # statistics and dropout would change them by as much as they are.
    np.testing.assert_allclose(extracted(out), extracted(features), rtol=1e-3, atol=1e-3)


def test_run__named_layer_is_averaged_over_space(
    images: Path, network: NetworkConfig, out: Path
) -> None:
    config = ExtractConfig(resize=20, layer="conv2")

    assert extract(images, network, out, config=config).facts["dim"] == 64
    assert (extracted(out) >= 0).all(), "after its ReLU"


def test_run__unknown_layer_lists_the_known(
    images: Path, network: NetworkConfig, out: Path
) -> None:
    with pytest.raises(ConfigError, match=r"layer 'conv9' is unknown. Known: .*conv4"):
        extract(images, network, out, config=ExtractConfig(resize=20, layer="conv9"))

    assert inspect(out)[0] is Condition.UNFINISHED


def test_run__bfloat16_is_close(images: Path, network: NetworkConfig, out: Path) -> None:
    config = ExtractConfig(resize=20, dtype="float32", precision="bfloat16")
    extract(images, network, out, config=config)
    half_ND, full_ND = extracted(out), by_hand(images, network, None)

    # 8 bits: 0.4 % a rounding, through six layers; measured 0.5 % of the length of a row.
    error_N = np.linalg.norm(half_ND - full_ND, axis=1) / np.linalg.norm(full_ND, axis=1)
    assert 1e-5 < error_N.mean() < 0.03


def test_run__refuses_a_checkpoint_of_another_network(
    images: Path, checkpoint: Path, out: Path
) -> None:
    other = NetworkConfig(name="smallnet", image_size=16, sobel=False)

    with pytest.raises(
        ArtifactError, match=r"holds a different network than the recipe's: \S*conv1"
    ):
        extract(images, other, out, checkpoint=checkpoint)


def test_run__refuses_images_that_are_not_finished(
    network: NetworkConfig, tmp_path: Path, out: Path
) -> None:
    with pytest.raises(ArtifactError, match="does not hold a finished artifact"):
        extract(tmp_path, network, out)


def test_run__tells_how_far_it_is(images: Path, network: NetworkConfig, out: Path) -> None:
    told: list[tuple[int, int | None]] = []
    context = replace(CONTEXT, progress=lambda done, total: told.append((done, total)))

    extract(images, network, out, config=ExtractConfig(resize=20, batch_size=100), context=context)

    assert told == [(100, 240), (200, 240), (240, 240)]


def test_run__on_a_device_that_is_fed_has_the_features_of_the_host(
    images: Path, network: NetworkConfig, tmp_path: Path
) -> None:
    host, device = tmp_path / "host", tmp_path / "device"
    half = PLAIN.model_copy(update={"dtype": "float16"})

    extract(images, network, host, config=half)
    manifest = extract(
        images, network, device, config=half, context=replace(CONTEXT, feed="device")
    )

    assert manifest.key == read_manifest(host).key, "the feed is no part of the key"
    found_ND, expected_ND = extracted(device), extracted(host)
    assert not np.array_equal(found_ND, expected_ND), "the views of the device are not rounded"
    # The host rounds each pixel by up to half a value of 255, up or down, which mostly cancels out.
    difference = np.linalg.norm(found_ND - expected_ND, axis=1)
    assert (difference < 0.02 * np.linalg.norm(expected_ND, axis=1)).all()


def test_run__does_not_feed_images_of_any_size_to_a_device(
    images_of_any_size: Path, network: NetworkConfig, tmp_path: Path
) -> None:
    host = extract(images_of_any_size, network, tmp_path / "host")

    device = extract(
        images_of_any_size, network, tmp_path / "device", context=replace(CONTEXT, feed="device")
    )

    assert device.digest == host.digest, "the views of the host are rounded"
