"""Suffixes: N images, C channels, S pixels of a side, D values of a feature."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import prune
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.data.decode import decode
from deepcluster_core.data.views import center_view
from deepcluster_core.errors import ArtifactError, ConfigError
from stages.runs.export import SUFFIXES, export
from stages.runs.past_run import PastRun
from tests.support.foreign_reader import run_elsewhere

ROUNDING = 1e-5
"""Of the greatest value; products are summed in another order elsewhere: 1e-6 was measured."""
RESIZED = 0.02
"""Of the greatest value, where Pillow resizes in place of torch: pixels differ by 1 of 255."""


@pytest.fixture
def pictures(tiny_images: Path, tmp_path: Path) -> Path:
    """Return a folder of five pictures, among them a JPEG."""
    folder = tmp_path / "exported" / "pictures"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted((tiny_images / "cross").iterdir())[:5]):
        shutil.copy(path, folder / f"{number}{path.suffix}")
    return folder


def wanted_features(run: Path, epoch: int, pictures: Path) -> NDArray[np.float32]:
    """Return the features of the run's own network, with its own preprocessing, in float32."""
    past = PastRun.open(str(run))
    dataset, size = past.recipe.dataset, past.recipe.network.image_size
    views = [
        center_view(
            decode(
                path.read_bytes(), channels=dataset.channels, shorter_side=dataset.shorter_side
            ).pixels_HWC,
            resize=past.recipe.extract.resize,
            size=size,
        )
        for path in sorted(pictures.iterdir())
    ]
    network = past.network(past.whole("checkpoints", epoch)).eval()
    with torch.no_grad():
        return network.feature(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)).numpy()


@pytest.mark.slow
def test_export__files_and_their_metadata_are_all_that_another_program_needs(
    own_run: Path, pictures: Path
) -> None:
    config = yaml.safe_load((own_run / "config.yaml").read_text())
    # Colour, and a second resize, which the recipe of the run does without.
    config["dataset"] |= {"channels": 3, "shorter_side": 26}
    config["extract"]["resize"] = 20
    (own_run / "config.yaml").write_text(yaml.safe_dump(config))
    wanted_ND = wanted_features(own_run, 1, pictures)

    for format, suffix in SUFFIXES.items():
        export(str(own_run), format=format, out=pictures.parent / f"network{suffix}", epoch=1)

    found, about = run_elsewhere(pictures.parent)
    assert {name.split()[0] for name in found} == set(SUFFIXES)
    for name, found_ND in found.items():
        apart = np.abs(found_ND - wanted_ND[: len(found_ND)]).max() / np.abs(wanted_ND).max()
        assert apart < RESIZED, name
        same = found[f"onnx {len(found_ND)}"]
        assert np.abs(found_ND - same).max() < ROUNDING * np.abs(wanted_ND).max(), name
    checkpoint = read_manifest(own_run / "checkpoints" / "epoch=0001")
    for told in about.values():
        assert told["checkpoint"]["digest"] == checkpoint.digest
        assert told["checkpoint"]["epoch"] == 1
        assert told["recipe"]["extract"]["resize"] == told["resize"] == 20
        assert told["output"] == {"name": "feature", "dtype": "float32", "dim": 256, "layer": None}


def test_export__takes_the_last_checkpoint_and_the_layer_that_is_asked_for(
    finished_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "network.pt2"

    export(str(finished_run), format="torch-export", out=out, layer="conv3")

    extra = {"deepcluster.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    images_NCSS = torch.rand(3, 1, 16, 16)
    past = PastRun.open(str(finished_run))
    network = past.network(past.whole("checkpoints", 2)).eval()
    with torch.no_grad():
        wanted_ND = network.layer_feature(images_NCSS, "conv3")
        torch.testing.assert_close(program(images_NCSS), wanted_ND, rtol=1e-4, atol=1e-5)
    assert '"layer": "conv3"' in extra["deepcluster.json"]


def test_export__what_is_there_is_not_written_over(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "network.safetensors"
    out.write_text("mine")

    with pytest.raises(ArtifactError, match=r"(?s)network\.safetensors: exists already.*Fix:"):
        export(str(finished_run), format="safetensors", out=out)

    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"format": "tflite"}, r"unknown --format tflite; choose from safetensors, torchscript"),
        ({"out": Path("network.onnx")}, r"--out network\.onnx: must end in \.pt\."),
        ({"epoch": 3}, r"--epoch 3: the run has epochs 0 to 2"),
        ({"layer": "conv9"}, r"layer 'conv9' is unknown"),
        ({"run": "runs/none"}, r"runs/none: is not a run"),
    ],
)
def test_export__what_cannot_be_meant_is_refused(
    asked: dict[str, Any], said: str, finished_run: Path
) -> None:
    known = {"run": str(finished_run), "format": "torchscript", "out": Path("network.pt")}
    given: dict[str, Any] = known | asked

    with pytest.raises(ConfigError, match=said):
        export(**given)

    assert list(Path().iterdir()) == []


def test_export__pruned_checkpoint_names_the_command_that_makes_it(own_run: Path) -> None:
    prune(own_run / "checkpoints" / "epoch=0001")

    with pytest.raises(ArtifactError, match=r"pruned: .*\n.*deepcluster stage train --run .*run"):
        export(str(own_run), format="torchscript", out=Path("network.pt"), epoch=1)


def test_export__damaged_checkpoint_is_refused(own_run: Path) -> None:
    model = own_run / "checkpoints" / "epoch=0002" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])

    with pytest.raises(ArtifactError, match=r"epoch=0002: is needed, but is damaged"):
        export(str(own_run), format="torchscript", out=Path("network.pt"), epoch=2)
