"""Network and images in, what excites filters out. Suffixes: N images, S side, C channels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_index
from deepcluster_core.context import Context
from deepcluster_core.data.views import center_view
from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.filters.ascent import iterations_for
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations.maximal import EVALUATION, PICTURES, STRONGEST, MaximalConfig
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import read_results

CONTEXT = Context(seed=31, epoch=0)
QUICK = {"iterations": 12, "filters": 3, "layers": ["conv1", "conv4"], "precision": "float32"}

Maximal = Callable[..., pd.DataFrame]


def protocol(**changes: object) -> MaximalConfig:
    """Return the shipped protocol, with changes."""
    return load_protocol(PROTOCOLS / "maximal.yaml", MaximalConfig, changes)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "maximal"


@pytest.fixture
def maximal(images: Path, network: NetworkConfig, checkpoint: Path, out: Path) -> Maximal:
    """Return a function that evaluates the shared artifacts, or others, and reads the rows."""

    def of(context: Context = CONTEXT, **keys: object) -> pd.DataFrame:
        given: dict[str, Any] = {"network": network, "images": images, "checkpoint": checkpoint}
        EVALUATION.run(protocol=protocol(**QUICK | keys), out=out, context=context, **given)
        return pd.DataFrame(read_results(out))

    return of


def test_run__a_row_for_each_filter_and_a_picture_for_each_layer(
    maximal: Maximal, out: Path
) -> None:
    table = maximal()

    assert list(zip(table["layer"], table["filter"], strict=True)) == [
        *(("conv1", number) for number in (0, 16, 31)),
        *(("conv4", number) for number in (0, 128, 255)),
    ]
    for name in ("activation", "log_probability"):
        assert (table[name].to_numpy() > table[f"start_{name}"].to_numpy()).all()
    assert sorted(path.name for path in (out / PICTURES).iterdir()) == ["conv1.png", "conv4.png"]
    with Image.open(out / PICTURES / "conv1.png") as picture:
        # Three filters of 224 + 3 + 224 px, 14 px apart, under captions of 14 px.
        assert picture.size == (3 * 451 + 2 * 14, 224 + 14)
    assert read_manifest(out).facts["iterations"] == {"conv1": 12, "conv4": 12}


def test_run__the_nine_are_those_of_a_full_sort(
    maximal: Maximal, images: Path, network: NetworkConfig, checkpoint: Path, out: Path
) -> None:
    rows = maximal(batch_size=50)

    model = restore_network(network, channels=1, seed=31, checkpoint=checkpoint).eval()
    pictures = Images(images)
    views = [center_view(pictures[i], resize=16, size=16) for i in range(len(pictures))]
    images_NCSS = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
    paths = [row["path"] for row in read_index(images, ["path"], range(len(pictures)))]
    table = pd.read_parquet(out / STRONGEST)
    for layer, number in zip(rows["layer"], rows["filter"], strict=True):
        nine = table.query(f"layer == {layer!r} and filter == {number}")
        with torch.no_grad():
            mean_N = model.layer_output(images_NCSS, layer).mean((2, 3))[:, number].numpy()
        assert nine["rank"].tolist() == list(range(1, 10))
        # Folding batch normalisation rounds: only images of nearly the same activation may swap.
        np.testing.assert_allclose(nine["activation"], np.sort(mean_N)[::-1][:9], rtol=1e-4)
        np.testing.assert_allclose(nine["activation"], mean_N[nine["image_id"]], rtol=1e-4)
        assert nine["path"].tolist() == [paths[image_id] for image_id in nine["image_id"]]
    best = table.query("rank == 1")
    assert rows["image_id"].tolist() == best["image_id"].tolist()
    assert rows["image_activation"].tolist() == best["activation"].tolist()


def test_run__looks_through_a_subset_alone(maximal: Maximal, out: Path) -> None:
    maximal(subset=20)
    first = pd.read_parquet(out / STRONGEST)
    maximal(replace(CONTEXT, epoch=5), subset=20)

    found = set(first["image_id"].tolist())
    assert len(found) <= 20
    assert not found <= set(range(20)), "drawn, not the first ones"
    pd.testing.assert_frame_equal(pd.read_parquet(out / STRONGEST), first)


def test_run__refuses_a_larger_subset_than_there_are_images(maximal: Maximal) -> None:
    with pytest.raises(ConfigError, match="subset: 241 images asked for, but the run has 240"):
        maximal(subset=241)


def test_run__same_inputs_same_bytes(maximal: Maximal, out: Path) -> None:
    def digest() -> str:
        maximal(iterations=6)
        assert inspect(out)[0] is Condition.WHOLE
        return read_manifest(out).digest

    assert digest() == digest()


def test_run__tells_how_far_it_is(maximal: Maximal) -> None:
    told: list[tuple[int, int | None]] = []
    context = replace(CONTEXT, progress=lambda done, total: told.append((done, total)))

    maximal(context, batch_size=100)

    # 240 images and 12 steps in each of two layers.
    assert [done for done, _ in told] == [100, 200, *range(240, 265)]
    assert {total for _, total in told} == {264}


def test_run__named_modules_of_other_networks(images: Path, out: Path) -> None:
    network = NetworkConfig(name="torchvision:resnet18", image_size=32)
    given: dict[str, Any] = {"network": network, "images": images, "checkpoint": None}
    keys = QUICK | {"layers": ["backbone.layer1"], "iterations": 4, "subset": 12}

    EVALUATION.run(protocol=protocol(**keys), out=out, context=CONTEXT, **given)

    assert {row["layer"] for row in read_results(out)} == {"backbone.layer1"}
    assert (out / PICTURES / "backbone.layer1.png").exists()


def test_ascent_at__numbers_of_figure_4() -> None:
    first, middle, last = (
        protocol().ascent_at(depth, channels=3, size=224) for depth in (0.0, 0.5, 1.0)
    )
    assert (first.step, first.iterations) == (3, 30_000)
    assert (last.step, last.iterations) == (30, 3_000)
    assert middle.step == pytest.approx(90**0.5)
    assert middle.iterations == iterations_for(90**0.5, channels=3, size=224)
    assert protocol(iterations=7).ascent_at(0.0, channels=3, size=224).iterations == 7


@pytest.mark.parametrize(
    ("key", "value"),
    [("layers", []), ("filters", 0), ("filters", [-1]), ("steps", [3]), ("steps", [0, 3])],
)
def test_protocol__refuses_values_without_a_meaning(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        protocol(**{key: value})
