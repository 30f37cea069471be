"""The commands that take results away, as a person types and reads them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import deepcluster
from deepcluster_core.errors import ConfigError
from flows.cli.main import main
from flows.show.cluster_names import list_names, take_names
from flows.show.diff import show_diff
from flows.show.run import show_cluster
from stages.runs.cluster_names import name_cluster
from stages.runs.folder import RunFolder
from stages.runs.image_facts import ImageFacts
from stages.runs.outputs.image_table import TableRequest, write_image_table
from stages.runs.past_run import PastRun
from tests.support.documentation import DOCS, blocks
from tests.support.labelled_runs import replace_labels
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.recipes import write_recipe

PAGE = (DOCS / "how-to" / "take-away.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two epochs, which tests only add names to."""
    folder = tmp_path_factory.mktemp("takeaway")
    recipe = write_recipe(folder / "tiny.yaml", tiny_images, epochs="2")
    deepcluster.run_epochs(recipe, folder / "tiny", echo=False)
    return folder / "tiny"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Typed":
    """Return a function that runs a command and returns its exit code and what it printed."""
    return Typed(monkeypatch, capsys)


class Typed:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str | Path) -> tuple[int, str]:
        self._monkeypatch.setattr(sys, "argv", ["deepcluster", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err


def test_commands__one_after_the_other(run: Path, typed: Typed) -> None:
    assert typed("name", run, "3", "cats") == (0, "epoch 1, cluster 3: cats\n")
    code, printed = typed("name", run)
    assert code == 0
    assert re.search(r"^ +3 +cats$", printed, re.MULTILINE)
    code, printed = typed("show", run, "--epoch", "1", "--cluster", "3")
    assert "epoch 1, cluster 3 (cats):" in printed
    code, printed = typed("diff", run)
    assert "names after: 3 (cats)" in printed

    code, printed = typed("table", run, "--out", "t.csv", "--columns", "path,cluster,cluster_name")
    assert (code, printed.splitlines()[1]) == (0, "columns: path, cluster, cluster_name")
    code, printed = typed("check", "t.csv")
    assert code == 0
    assert "whose labels of epoch 1 are unchanged" in printed
    typed("name", run, "3", "dogs")
    code, printed = typed("check", "t.csv")
    assert code == 0
    assert "Names of clusters have changed" in printed

    code, printed = typed("sort", run, "--out", "sorted", "--per-cluster", "2", "--link")
    assert code == 0
    assert "folders; images.parquet lists them" in printed
    assert Path("sorted/3-dogs").is_dir()
    code, printed = typed("pick", run, "--images", "8", "--limit", "2")
    assert code == 0
    assert "… and 6 more; --limit 8 shows all" in printed
    code, printed = typed("duplicates", run, "--threshold", "0.5", "--out", "d.csv")
    assert code == 0
    assert "threshold 0.5000: the cosine" in printed
    assert printed.endswith("\nd.csv: all groups\n")
    assert typed("check", "d.csv")[0] == 0
    code, printed = typed("duplicates", run, "--threshold", "0.5", "--out", "d.txt")
    could_go = len(Path("d.txt").read_text().splitlines())
    assert f"; {could_go} could go" in printed
    assert printed.endswith(f"\nd.txt: the {could_go} that could go\n")


@pytest.mark.parametrize("there", ["out.csv", "out.about.json"])
@pytest.mark.parametrize("command", [("duplicates",), ("pick", "--images", "4")], ids=str)
def test_commands__file_that_exists_is_noticed_before_the_work(
    there: str, command: tuple[str, ...], run: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFacts, "of", pytest.fail)
    Path(there).touch()

    code, printed = typed(*command, run, "--out", "out.csv")

    assert code == 2
    assert f"{there}: exists already" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("name", "RUN", "3"), "takes a cluster and its name"),
        (("name", "RUN", "99", "x"), "has clusters 0 to 7"),
        (("name", "RUN", "--epoch", "7"), "has no labels"),
        (("table", "RUN", "--out", "t.xlsx"), "must end in"),
        (("table", "RUN", "--out", "."), "--out result.parquet"),
        (("table", "RUN", "--out", "t.csv", "--map", "tsne"), "choose from pca, umap"),
        (("check", "nothing.csv"), "is not there"),
        (("sort", "RUN", "--out", "s", "--link", "--list"), "exclude each other"),
        (("pick", "RUN", "--images", "3", "--epoch", "7"), "the run has epochs 0 to 1"),
    ],
)
def test_commands__wrong_use_ends_with_2(
    words: tuple[str, ...], said: str, run: Path, typed: Typed
) -> None:
    code, printed = typed(*(str(run) if word == "RUN" else word for word in words))

    assert code == 2
    assert said in printed
    assert "Fix:" in printed
    assert not list(Path().iterdir())


def test_check__is_an_exit_code_for_scripts(run: Path) -> None:
    Path("old.csv").write_text("a\n")

    ended = subprocess.run(
        [PROGRAM, "check", "old.csv"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert "does not say what it was made from" in ended.stderr


def test_list_names__says_what_does_not_count(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "copy")
    labels = PastRun.open(str(run)).whole("labels", 0)
    clusters = deepcluster.open_run(run).labels(0)["cluster"].to_numpy()
    folder.artifact("labels", 0).mkdir(parents=True)
    replace_labels(folder, 0, clusters)
    name_cluster(folder, epoch=0, cluster=1, name="cats")
    replace_labels(folder, 0, clusters[::-1])

    list_names(folder, None)

    printed = capsys.readouterr().out
    assert labels.exists()
    assert "epoch 0 has no names" in printed
    assert "not used: cats, of cluster 1 at epoch 0, whose labels were replaced since" in printed


def test_take_names__from_a_run_of_the_same_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clusters = deepcluster.open_run(run).labels(0)["cluster"].to_numpy()
    one, other = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "other")
    for folder in (one, other):
        folder.artifact("labels", 0).mkdir(parents=True)
        replace_labels(folder, 0, clusters)
    with pytest.raises(ConfigError, match=r"have no names(.|\n)*Fix:"):
        take_names(one, other, None)
    name_cluster(other, epoch=0, cluster=2, name="cats")

    take_names(one, other, None)
    take_names(one, other, None)

    printed = capsys.readouterr().out
    assert "1 names from epoch 0" in printed
    assert re.search(r"^ +2 +100% +cats$", printed, re.MULTILINE)
    assert "0 names from epoch 0" in printed
    assert "1 clusters keep" in printed


def test_page__its_python_works(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    past = PastRun.open(str(run))
    for name in ("demo.parquet", "demo.h5ad"):
        write_image_table(past, Path(name), TableRequest())

    for block in blocks(PAGE, "python"):
        exec(block, {})  # noqa: S102  our own page

    assert "count_star()" in capsys.readouterr().out


def test_names__of_other_tables(run: Path, tmp_path: Path) -> None:
    """A diff of tables that belong to no run has no names."""
    labels = run / "labels" / "epoch=0001" / "labels.parquet"
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(labels.read_bytes())

    show_diff(str(copy), str(copy), from_epoch=None, to_epoch=None, out=None, limit=3)
    show_cluster(RunFolder(run), 0, 0, 3)
