"""What a sweep refuses before, or instead of, making anything."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.errors import ConfigError, FeatureError
from flows.cli.main import main
from flows.sweep import sweep
from tests.support.flow_runs import swept
from tests.support.program import PROGRAM
from tests.support.recipes import write_recipe


def test_sweep__deletes_nobodys_files(recipe: Path, tmp_path: Path, prefect_server: str) -> None:
    own = tmp_path / "sweep/k=00004/images/notes.txt"
    own.parent.mkdir(parents=True)
    own.touch()

    with pytest.raises(Exception, match="files that no stage made"):
        swept(recipe, tmp_path / "sweep", 4, epochs=1)

    assert own.exists()


def test_sweep__refuses_every_k_beyond_the_images_before_a_folder_is_made(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    with pytest.raises(ConfigError, match=r"--k 241,1000: more clusters than the 240 images"):
        swept(recipe, tmp_path / "sweep", 4, 1000, 241)
    with pytest.raises(FeatureError, match=r"cluster\.pca_dim: 8 needs at least 9 images"):
        swept(recipe, tmp_path / "sweep", 4, changes={"dataset": {"subset": 8}})

    assert not (tmp_path / "sweep").exists()


def test_sweep__counts_only_images_that_can_be_read(
    tiny_images: Path, tmp_path: Path, prefect_server: str
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "source")
    (source / "disc/000.png").write_bytes(b"")
    recipe = write_recipe(tmp_path / "own.yaml", source)

    with pytest.raises(ConfigError, match=r"--k 240: more clusters than the 239 images"):
        swept(recipe, tmp_path / "sweep", 4, 240)

    assert sorted((tmp_path / "sweep").glob("k=*")) == [
        tmp_path / "sweep/k=00004",
        tmp_path / "sweep/k=00240",
    ]
    assert not list((tmp_path / "sweep").rglob("labels")), "not even the first k has begun"


@pytest.mark.parametrize("ks", ["1,8", "8,x", "8,8", ""])
def test_sweep_command__refuses_wrong_k_with_exit_code_2(
    ks: str, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), "sweep", str(recipe), "--k", ks])

    with pytest.raises(SystemExit) as caught:
        main()

    captured = capsys.readouterr()
    assert (caught.value.code, captured.out) == (2, "")
    assert captured.err.startswith("deepcluster: --k")
    assert not list(Path().iterdir()), "nothing is created"


def test_sweep__needs_k_or_another_key(recipe: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"k": [4], "over": {"seed": [1]}},
        {"over": {"seed": [1], "train.lr": [1]}},
    ]
    for given in wrong:
        with pytest.raises(ConfigError, match="either k or over"):
            sweep(recipe=str(recipe), run=str(tmp_path / "none"), **given)
