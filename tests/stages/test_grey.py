"""`dataset.encoding: grey` against `raw`, stage by stage, on cuts of real photographs.

Suffixes: N images, B batch, S side, D values of a feature.
"""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from benchmarks.pictures import write_pictures
from deepcluster_core.artifacts import pixel_parts
from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import COLOURS, INDEX, MODEL
from deepcluster_core.artifacts.images import Images, ShownImages
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.data.decode import decode
from deepcluster_core.data.grey import WHOLE, to_grey
from deepcluster_core.data.views import RandomCrop, augmentation_draws, random_views
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.ranks import ALONE, Ranks
from deepcluster_core.report.cluster_artifacts import read_assigned, read_gallery
from stages import packed_images
from stages.cluster import ClusterConfig, cluster
from stages.evaluations.maximal import EVALUATION as MAXIMAL
from stages.evaluations.maximal import PICTURES, MaximalConfig
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.extract import ExtractConfig, extract
from stages.index import DatasetConfig, index
from stages.train import TrainConfig, train
from tests.margins import SEED
from tests.support.gloo import on_processes

NUM_PICTURES = 40
NETWORK = NetworkConfig(name="smallnet", image_size=32)
OTHER_NETWORK = NetworkConfig(name="smallnet", image_size=32, std=(0.1, 0.2, 0.3))
EXTRACT = ExtractConfig(resize=36, precision="float32", dtype="float32")
CONTEXT = Context(seed=SEED, workers=2)
EPOCH_0 = replace(CONTEXT, epoch=0)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of JPEGs and two PNGs, cut from two photographs."""
    folder = tmp_path_factory.mktemp("photographs") / "source"
    write_pictures(folder, count=NUM_PICTURES)
    for path in sorted(folder.rglob("*.jpg"))[:2]:
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    return folder


def config(source: Path, encoding: str, **changes: object) -> DatasetConfig:
    weights = NETWORK.grey_weights if encoding == "grey" else None
    values = {"source": source, "shorter_side": 40, "encoding": encoding, "grey_weights": weights}
    return DatasetConfig.model_validate(values | changes)


def indexed(dataset: DatasetConfig, out: Path, context: Context = CONTEXT) -> Path:
    index.run(dataset=dataset, source="s", out=out, context=context)
    return out


def extracted(images: Path, out: Path, network: NetworkConfig = NETWORK) -> NDArray[np.float32]:
    given = {"extract": EXTRACT, "network": network, "images": images, "checkpoint": None}
    extract.run(**given, out=out, context=EPOCH_0)
    return np.concatenate(list(Features(out).blocks()))


def trained(
    images: Path,
    labels: Path,
    out: Path,
    *,
    network: NetworkConfig = NETWORK,
    ranks: Ranks = ALONE,
    batch_size: int = 8,
) -> dict[str, torch.Tensor]:
    context = replace(EPOCH_0, ranks=ranks, scratch=out.parent / "scratch")
    train.run(
        train=TrainConfig(batch_size=batch_size, lr=0.01, precision="float32"),
        network=network,
        images=images,
        labels=labels,
        checkpoint=None,
        out=out,
        context=context,
    )
    return load_file(out / MODEL)


@pytest.fixture(scope="module")
def packed(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an images artifact of each encoding. Shared: a test must not change them."""
    root = tmp_path_factory.mktemp("packed")
    return {
        encoding: indexed(config(photographs, encoding), root / encoding)
        for encoding in ("raw", "grey", "jpeg")
    }


@pytest.fixture(scope="module")
def labels(packed: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four clusters of the grey images."""
    root = tmp_path_factory.mktemp("labels")
    extracted(packed["grey"], root / "features")
    cluster.run(
        cluster=ClusterConfig(k=4, pca_dim=8),
        images=packed["grey"],
        features=root / "features",
        out=root / "labels",
        context=EPOCH_0,
    )
    return root / "labels"


def test_index__packs_the_weighted_sum_of_each_picture(
    photographs: Path, packed: dict[str, Path]
) -> None:
    facts = read_manifest(packed["grey"]).facts
    stored, shown = Images(packed["grey"]), ShownImages(packed["grey"])
    rows = pd.read_parquet(packed["grey"] / INDEX)

    copy_differs: list[float] = []
    grey_differs: list[float] = []
    assert set(rows.format) == {"JPEG", "PNG"}
    assert facts["grey_weights"] == [21557, 22039, 21940], "ImageNet's deviations"
    for image_id, path in enumerate(rows.path):
        pixels_HW3 = decode(
            (photographs / path).read_bytes(), channels=3, shorter_side=40
        ).pixels_HWC
        sum_HW = pixels_HW3.astype(np.float64) @ np.array(facts["grey_weights"]) / WHOLE
        np.testing.assert_array_equal(stored.verified(image_id)[..., 0], np.floor(sum_HW + 0.5))
        # The second compression, at quality 95: up to 4.8 on these small pictures, whose JPEGs hold
        # differences of colours at half of the resolution.
        difference = np.abs(shown.verified(image_id).astype(int) - pixels_HW3)
        assert difference.mean() < 8
        copy_differs.append(difference.mean())
        grey_differs.append(np.abs(stored[image_id].astype(int) - pixels_HW3).mean())
    assert np.mean(grey_differs) > 3 * np.mean(copy_differs), "the copies are in colour"


def test_index__copies_are_left_out_on_request(
    photographs: Path, packed: dict[str, Path], tmp_path: Path
) -> None:
    out = indexed(config(photographs, "grey", colour_copies=False), tmp_path / "images")

    found, with_copies = read_manifest(out), read_manifest(packed["grey"])
    assert not (out / COLOURS).exists()
    for name, record in found.files.items():
        assert record.sha256 == with_copies.files[name].sha256
    assert ShownImages(out)[0].shape[2] == 1, "what people see is grey, too"


def test_index__same_bytes_after_an_interruption_and_with_one_worker(
    photographs: Path, packed: dict[str, Path], tmp_path: Path
) -> None:
    class Cut(Exception):  # noqa: N818
        pass

    def cut(done: int, _total: int | None) -> None:
        if done:
            raise Cut

    dataset, out = config(photographs, "grey"), tmp_path / "images"
    with pytest.raises(Cut):
        indexed(dataset, out, replace(CONTEXT, progress=cut))
    assert inspect(out)[0] is Condition.UNFINISHED
    indexed(dataset, out, replace(CONTEXT, workers=1))

    again, whole = read_manifest(out), read_manifest(packed["grey"])
    assert (again.key, again.digest) == (whole.key, whole.digest)


def test_index__an_interrupted_index_keeps_full_files_and_their_colours(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many files of pixels are full, and each has several files of copies in colour or one.
    monkeypatch.setattr(pixel_parts, "BATCH_ROWS", 4)
    monkeypatch.setattr(pixel_parts, "PART_BYTES", 20_000)
    monkeypatch.setattr(packed_images, "READ_AT_ONCE", 1)
    dataset, out = config(photographs, "grey"), tmp_path / "interrupted"
    expected = read_manifest(indexed(dataset, tmp_path / "whole", replace(CONTEXT, workers=1)))
    num_decoded = 0

    def failing(*given: Any, **settings: Any) -> Any:  # noqa: ANN401  as decode
        nonlocal num_decoded
        num_decoded += 1
        if num_decoded == NUM_PICTURES - 5:
            raise KeyboardInterrupt
        return decode(*given, **settings)

    monkeypatch.setattr(packed_images, "decode", failing)
    with pytest.raises(KeyboardInterrupt):
        indexed(dataset, out, replace(CONTEXT, workers=1))
    num_decoded = NUM_PICTURES

    indexed(dataset, out, replace(CONTEXT, workers=1))

    assert read_manifest(out).digest == expected.digest
    assert len(list(out.glob(f"{COLOURS}/part-*"))) > 2
    assert num_decoded < 2 * NUM_PICTURES - 10, "what was packed is not decoded again"
    ShownImages(out).verified(NUM_PICTURES - 1)


def test_index__grey_without_weights_is_refused(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"grey needs dataset\.grey_weights"):
        indexed(config(photographs, "grey", grey_weights=None), tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_views__of_grey_images_are_the_grey_of_the_views(packed: dict[str, Path]) -> None:
    raw, grey = Images(packed["raw"]), Images(packed["grey"])
    crop = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
    draws_BR = augmentation_draws(7, 0, NUM_PICTURES)

    colour_BSSC, grey_BSSC = (
        random_views([images[i] for i in range(NUM_PICTURES)], draws_BR, crop, size=32)
        for images in (raw, grey)
    )

    assert grey.grey_weights is not None
    expected = np.stack([to_grey(view_SSC, grey.grey_weights) for view_SSC in colour_BSSC])
    # Rounded before and after the resize, in another order: at most one each time.
    np.testing.assert_allclose(grey_BSSC.astype(int), expected.astype(int), atol=2)
    assert (grey_BSSC == expected).mean() > 0.5


def test_extract__features_of_grey_and_of_colour_agree(
    packed: dict[str, Path], tmp_path: Path
) -> None:
    grey_ND, raw_ND = (extracted(packed[name], tmp_path / name) for name in ("grey", "raw"))

    size_N = np.linalg.norm(raw_ND, axis=1)
    # Rounding to whole values moves features by up to 1.1 % here; JPEG at quality 95 by 4.5 %.
    assert (np.linalg.norm(grey_ND - raw_ND, axis=1) / size_N).max() < 0.03
    # So that the bound says something: other images are further away.
    assert np.linalg.norm(raw_ND[0] - raw_ND[-1]) / size_N[0] > 0.15


def test_train__a_step_on_grey_differs_less_than_one_on_jpegs(
    packed: dict[str, Path], labels: Path, tmp_path: Path
) -> None:
    first = restore_network(NETWORK, channels=3, seed=SEED, checkpoint=None).state_dict()
    after = {
        encoding: trained(images, labels, tmp_path / encoding, batch_size=NUM_PICTURES)
        for encoding, images in packed.items()
    }

    shapes = {name: one.shape for name, one in first.items()}
    assert {name: one.shape for name, one in after["grey"].items()} == shapes
    for name in (name for name in first if name.endswith("weight")):
        step = (after["raw"][name] - first[name]).norm()
        grey, jpeg = (
            ((after[encoding][name] - after["raw"][name]).norm() / step).item()
            for encoding in ("grey", "jpeg")
        )
        # The same boxes, flips, dropout and head, so that rounding alone differs: once for the sum
        # of the channels, or once for each. In enlarged crops of few pixels that is a third of the
        # gradient at most (measured: 0.12 to 0.31, JPEGs of quality 95 0.17 to 0.50).
        assert grey < 0.45, name
        assert grey < jpeg, name
    loss, raw_loss = (read_manifest(tmp_path / one).facts["loss"] for one in ("grey", "raw"))
    assert loss == pytest.approx(raw_loss, abs=0.02)


@pytest.mark.parametrize("network", [OTHER_NETWORK, NETWORK.model_copy(update={"sobel": False})])
def test_stages__refuse_images_that_were_packed_for_another_network(
    network: NetworkConfig, packed: dict[str, Path], labels: Path, tmp_path: Path
) -> None:
    wanted = r"grey images weigh red, green and blue \[21557, .*\n  Cause: .*\n  Fix: "
    with pytest.raises(ArtifactError, match=wanted):
        extracted(packed["grey"], tmp_path / "features", network)
    with pytest.raises(ArtifactError, match=wanted):
        trained(packed["grey"], labels, tmp_path / "train", network=network)


def _of_rank(images: Path, labels: Path, ranks: Ranks, folder: Path) -> None:
    torch.set_num_threads(1)
    trained(images, labels, folder / "two", ranks=ranks)


@pytest.mark.slow
def test_train__two_ranks_read_grey_like_one(
    packed: dict[str, Path], labels: Path, tmp_path: Path
) -> None:
    one = trained(packed["grey"], labels, tmp_path / "one")

    work = partial(_of_rank, packed["grey"], labels)
    assert on_processes(2, work, tmp_path) == [None, None]

    two = load_file(tmp_path / "two" / MODEL)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-3, msg=name)


def _is_coloured(image: Image.Image) -> bool:
    pixels_HWC = np.asarray(image.convert("RGB")).astype(int)
    return bool(np.abs(pixels_HWC[..., 0] - pixels_HWC[..., 2]).mean() > 5)


def test_report__shows_colours(packed: dict[str, Path], labels: Path) -> None:
    images = packed["grey"]
    assigned = read_assigned(labels, before=None, images=images)

    gallery = read_gallery(
        assigned, images, epoch=0, clusters=4, generator=np.random.default_rng(0)
    )

    thumbnails = [Image.open(io.BytesIO(data)) for data in gallery.thumbnails.data.values()]
    assert thumbnails
    assert all(map(_is_coloured, thumbnails))


def test_maximal__searches_grey_images_and_shows_colours(
    packed: dict[str, Path], tmp_path: Path
) -> None:
    changes = {"iterations": 2, "filters": [0], "layers": ["conv1"], "precision": "float32"}
    protocol = load_protocol(PROTOCOLS / "maximal.yaml", MaximalConfig, changes)
    found: dict[str, list[int]] = {}
    for encoding in ("raw", "grey"):
        given: dict[str, Any] = {"images": packed[encoding], "checkpoint": None}
        MAXIMAL.run(
            protocol=protocol, out=tmp_path / encoding, context=EPOCH_0, network=NETWORK, **given
        )
        strongest = pd.read_parquet(tmp_path / encoding / "images.parquet")
        found[encoding] = strongest.image_id.tolist()

    assert len(set(found["grey"]) & set(found["raw"])) >= 7, "of nine; close ones change places"
    with Image.open(tmp_path / "grey" / PICTURES / "conv1.png") as picture:
        # Left the learnt image, right the images of the run.
        assert _is_coloured(picture.crop((picture.width // 2, 14, *picture.size)))
