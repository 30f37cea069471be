"""What is settled once for each run: the number format of its network, and its source."""

import shutil
from pathlib import Path

import pytest

from deepcluster_core import precision
from deepcluster_core.data.sources import Source
from deepcluster_core.data.sources.downloads import Scratch
from stages.index import DatasetConfig
from stages.runs.folder import RunFolder
from stages.runs.opening import begin
from stages.runs.recipe import Recipe, load_recipe, save_recipe
from stages.runs.report import Report
from stages.runs.run import Run
from stages.runs.settings_changes import check_settings
from stages.runs.settled import as_begun, settled
from tests.support.recipes import write_recipe
from tests.support.refusals import make


def machine(monkeypatch: pytest.MonkeyPatch, faster: str) -> None:
    """Make this machine one on which this format is faster."""
    monkeypatch.setattr(precision, "faster_precision", lambda _: faster)


def settle(recipe: Recipe, folder: RunFolder) -> Recipe:
    return settled(recipe, folder, inform=print).recipe


def formats_of(recipe: Recipe) -> tuple[str, str]:
    return recipe.extract.precision, recipe.train.precision


def test_settled__a_run_keeps_the_format_of_the_machine_that_began_it(
    monkeypatch: pytest.MonkeyPatch, tiny_images: Path, tmp_path: Path
) -> None:
    given = load_recipe(write_recipe(tmp_path / "recipe.yaml", tiny_images))
    folder = RunFolder(tmp_path / "run")
    machine(monkeypatch, "bfloat16")
    begun = settle(given, folder)
    assert formats_of(begun) == ("bfloat16", "bfloat16")
    folder.root.mkdir()
    save_recipe(begun, folder.config)

    machine(monkeypatch, "float32")

    assert settle(given, folder) == begun
    assert check_settings(folder, as_begun(given, begun), update=False) == ""
    assert formats_of(settle(given, RunFolder(tmp_path / "other"))) == ("float32", "float32")


def test_settled__keeps_a_format_that_the_recipe_names(
    monkeypatch: pytest.MonkeyPatch, tiny_images: Path, tmp_path: Path
) -> None:
    machine(monkeypatch, "bfloat16")
    path = write_recipe(tmp_path / "recipe.yaml", tiny_images)
    given = load_recipe(path, {"train": {"precision": "float32"}})

    assert formats_of(settle(given, RunFolder(tmp_path / "run"))) == ("bfloat16", "float32")


def test_settled__a_run_of_an_earlier_version_continues_with_auto(
    monkeypatch: pytest.MonkeyPatch, tiny_images: Path, tmp_path: Path
) -> None:
    given = load_recipe(write_recipe(tmp_path / "recipe.yaml", tiny_images))
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    save_recipe(given, folder.config)
    machine(monkeypatch, "bfloat16")

    assert formats_of(settle(given, folder)) == ("auto", "auto")


def test_run__opens_its_source_once(
    monkeypatch: pytest.MonkeyPatch, tiny_images: Path, tmp_path: Path
) -> None:
    opened: list[Path] = []
    open_source = DatasetConfig.open_source

    def counting(dataset: DatasetConfig, scratch: Scratch | None = None) -> Source:
        opened.append(Path(str(dataset.source)))
        return open_source(dataset, scratch)

    monkeypatch.setattr(DatasetConfig, "open_source", counting)
    given = load_recipe(write_recipe(tmp_path / "recipe.yaml", tiny_images))
    folder = RunFolder(tmp_path / "run")

    run = Run(folder, given, Report(folder, epochs=1, echo=False))
    begin(run, update=False, anyway=False)
    run.claim.end()

    assert opened == [tiny_images]
    assert run.recipe.dataset.deep == "range"


def test_settled__of_a_source_that_is_gone_reads_what_was_packed(
    tiny_images: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "source")
    path = write_recipe(tmp_path / "recipe.yaml", source, epochs="1")
    make(path, tmp_path / "run")
    folder, sentences = RunFolder(tmp_path / "run"), list[str]()
    before = settled(load_recipe(path), folder, inform=sentences.append)
    assert not sentences

    shutil.rmtree(source)

    assert settled(load_recipe(path), folder, inform=sentences.append) == before
    assert "is gone; continuing with the images in" in sentences[0]
