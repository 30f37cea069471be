from pathlib import Path

import pytest

from deepcluster_core.errors import ConfigError
from stages.runs.locate import existing_run, run_path
from stages.runs.settled import resolve


@pytest.mark.parametrize(
    ("run", "folder"),
    [("mine", "runs/mine"), ("a/b", "a/b"), ("/data/mine", "/data/mine"), ("runs/x", "runs/x")],
)
def test_run_path__bare_name_is_one_under_runs(run: str, folder: str) -> None:
    assert run_path(run) == Path(folder)


def test_resolve__puts_overrides_over_the_recipe_and_epochs_over_both(recipe: Path) -> None:
    overrides = {"epochs": 7, "cluster": {"k": 5}}

    resolved, folder = resolve(str(recipe), None, 9, overrides)

    assert (resolved.epochs, resolved.cluster.k, resolved.cluster.pca_dim) == (9, 5, 8)
    assert folder.root == Path("runs/tiny"), "named after the recipe"
    assert not folder.root.exists(), "nothing is created yet"


def test_resolve__refuses_a_file_in_the_place_of_the_run(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()

    with pytest.raises(ConfigError, match="taken: is a file, but a run is a folder"):
        resolve(str(recipe), str(tmp_path / "taken"), None, {})


def test_existing_run__finds_it_by_name_or_path(finished_run: Path) -> None:
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(finished_run)

    assert existing_run("mine").root == Path("runs/mine")
    assert existing_run(str(finished_run)).root == finished_run


def test_existing_run__without_one_lists_those_there_are(finished_run: Path) -> None:
    with pytest.raises(ConfigError, match="There is none under runs/ here"):
        existing_run("absent")
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(finished_run)
    with pytest.raises(ConfigError, match=r"runs/absent: is not a run.*\n.*Here are: runs/mine"):
        existing_run("absent")
    Path("runs/swept").mkdir()
    Path("runs/swept/k=00004").symlink_to(finished_run)
    with pytest.raises(ConfigError, match=r"runs/swept: is not a run.*\n.*are: runs/swept/k=00004"):
        existing_run("swept")
