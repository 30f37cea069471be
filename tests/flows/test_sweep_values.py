"""Evaluations of every run of a sweep, and what they say against k: figure 2(c)."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.errors import DeepClusterError
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from flows.evaluate import evaluate
from flows.show.results import show_by_value
from flows.show.sweep_values import evaluated
from flows.sweep import sweep
from stages.evaluations.shared.results import read_results
from stages.runs.folder import RunFolder
from stages.runs.recipe import RecipeOverrides
from stages.runs.sweep_plan import open_sweep
from tests.support.drawn_shapes import draw_images
from tests.support.flow_runs import SWEPT_EPOCHS, call
from tests.support.run_files import contents
from tests.support.voc_tree import write_voc

KS = (4, 8)
LAST = SWEPT_EPOCHS - 1
QUICK: dict[str, Any] = {"ks": [1, 5]}
BRIEF: dict[str, Any] = {"select": True, "iterations": 4, "crops": 1, "weight_std": 0.06}


def knn(run: Path, **parameters: object) -> dict[str, str]:
    return call(evaluate, name="knn", run=str(run), **{"overrides": QUICK} | parameters)


def result_of(root: Path, k: int, name: str = "knn", epoch: int = LAST) -> Path:
    return root / f"k={k:05d}/evaluations/{name}/epoch={epoch:04d}"


def made(root: Path) -> dict[str, tuple[int, str]]:
    """Return the contents that an untouched second call must leave as they are."""
    changing = (".lock", "config.yaml", "overview.png", "report.html")
    return {name: at for name, at in contents(root).items() if not name.endswith(changing)}


@pytest.mark.slow
def test_evaluate__of_a_sweep_is_figure_2c(
    recipe: Path, own_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_voc(tmp_path / "voc", sizes={"train": 16, "val": 16})
    plain = pd.read_parquet(own_sweep / "sweep.parquet")
    asked: dict[str, Any] = {
        "name": "voc-classification",
        "run": str(own_sweep),
        "data": str(tmp_path / "voc"),
        "overrides": BRIEF,
    }

    evaluate(**asked)

    table = pd.read_parquet(own_sweep / "sweep.parquet")
    pd.testing.assert_frame_equal(table.reindex(columns=plain.columns), plain)
    ap = table.query("epoch == @LAST").set_index("k")["voc-classification ap"]
    for k in KS:
        rows = read_results(result_of(own_sweep, k, "voc-classification"))
        mean = {row["network"]: row["ap"] for row in rows if row["class"] == "mean"}
        assert ap[k] == mean[f"epoch {LAST}"]
        random = table.query("k == @k and epoch == @LAST")["voc-classification ap random"]
        assert list(random) == [mean["random"]]
    assert not len(table.query("epoch < @LAST").dropna(subset=["voc-classification ap"]))
    with Image.open(own_sweep / "sweep.png") as picture:
        assert picture.height > 0.85 * picture.width, "three rows of panels: two are 6.6 by 11"

    before = made(own_sweep)
    sweep(list(KS), str(recipe), run=str(own_sweep), epochs=SWEPT_EPOCHS)
    assert made(own_sweep) == before, "the table keeps the evaluation, and nothing is drawn again"

    capsys.readouterr()
    show_by_value(own_sweep, "voc-classification", None)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [line for line in lines if line[:1] in (["random"], ["4"], ["8"])]
    assert [line[0] for line in shown] == ["random", "4", "8"], "the same for all k: told once"
    assert [float(line[1]) for line in shown[1:]] == pytest.approx([ap[4], ap[8]], abs=0.006)


@pytest.mark.slow
def test_sweep__of_given_weights_without_training(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    network = build_network(NetworkConfig(name="smallnet", image_size=16), channels=1, seed=99)
    save_file(network.state_dict(), tmp_path / "given.safetensors")
    given = RecipeOverrides.model_validate(
        {"network": {"weights": str(tmp_path / "given.safetensors")}}
    )
    root = tmp_path / "sweep"

    sweep(list(KS), str(recipe), run=str(root), epochs=0, overrides=given)
    knn(root)

    table = pd.read_parquet(root / "sweep.parquet")
    assert list(table["k"]) == list(KS)
    assert (table["seconds"].to_numpy() > 0).all()
    own, random = "knn top1 of 5 neighbours", "knn top1 of 5 neighbours random"
    assert table[[own, random]].notna().to_numpy().all()
    assert f"{own} given weights" not in table, "they are the network of the run"


@pytest.mark.slow
def test_evaluate__other_images_are_indexed_once_for_a_sweep(
    own_sweep: Path, tmp_path: Path
) -> None:
    training = draw_images(tmp_path / "training", per_class=10, seed=1)

    knn(own_sweep, data=str(training), epoch=0)

    packed = [path.parent for path in own_sweep.rglob("_data/*/_manifest.json")]
    assert [path.parent for path in packed] == [own_sweep / "evaluations/_data"]
    digests = {read_manifest(result_of(own_sweep, k, epoch=0)).inputs["images"] for k in KS}
    assert digests == {read_manifest(packed[0]).digest}


def test_evaluate__of_a_sweep_refuses_before_the_first_run_is_evaluated(own_sweep: Path) -> None:
    knn(own_sweep / "k=00008", overrides={"ks": [1]})
    before = made(own_sweep)

    with pytest.raises(DeepClusterError, match=r"k=00008.*\n.*Changed: ks \[1\] -> \[1, 5\]"):
        knn(own_sweep)

    assert made(own_sweep) == before
    runs = {"deepcluster-evaluate-0", "deepcluster-evaluate-1"}  # what Prefect calls them
    assert knn(own_sweep, update=True) == dict.fromkeys(runs, "Completed")
    table = pd.read_parquet(own_sweep / "sweep.parquet")
    assert len(table.dropna(subset=["knn top1 of 5 neighbours"])) == len(KS)
    assert knn(own_sweep / "k=00004") == {f"knn epoch {LAST}": "Cached"}, "as if asked of it alone"


@pytest.mark.parametrize(
    ("gone", "parameters", "message"),
    [
        ("", {"epoch": 7}, r"--epoch 7: is not trained in k=00004; epochs 0 to 1 are"),
        ("k=00008/checkpoints/epoch=0001", {"epoch": 1}, r"--epoch 1: is not trained in k=00008"),
        ("k=00008/checkpoints", {}, r"k=00008: has no trained epoch yet"),
        ("k=00008", {}, r"k=00008: is gone, but sweep\.parquet compares it.*Fix: "),
        ("sweep.parquet", {}, r"sweep\.parquet: cannot be read.*Fix: deepcluster sweep"),
        ("", {"overrides": {"kk": 1}}, r"kk: unknown key"),
    ],
)
def test_evaluate__refuses_a_sweep_and_changes_nothing(
    gone: str, parameters: dict[str, Any], message: str, own_sweep: Path
) -> None:
    if gone:
        path = own_sweep / gone
        path.unlink() if path.is_file() else shutil.rmtree(path)
    before = made(own_sweep)

    with pytest.raises(DeepClusterError, match=f"(?s){message}"):
        evaluate(name="knn", run=str(own_sweep), **parameters)

    assert made(own_sweep) == before


def test_evaluate__epoch_that_the_sweep_does_not_compare(own_sweep: Path) -> None:
    for k in KS:  # as if both runs had gone on
        run = own_sweep / f"k={k:05d}"
        kept = run / "checkpoints"
        shutil.copytree(kept / f"epoch={LAST:04d}", kept / f"epoch={LAST + 1:04d}")
        recipe = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(recipe | {"epochs": LAST + 2}))

    with pytest.raises(DeepClusterError, match=r"--epoch 2: .* compares epochs 0 to 1"):
        evaluate(name="knn", run=str(own_sweep), epoch=LAST + 1)


@pytest.mark.slow
def test_evaluate__last_epoch_of_a_sweep_is_one_that_all_runs_have(
    own_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(own_sweep / f"k=00008/checkpoints/epoch={LAST:04d}")
    before = (own_sweep / "sweep.parquet").read_bytes()

    evaluate(name="filters", run=str(own_sweep))
    capsys.readouterr()
    show_by_value(own_sweep, "filters", None)

    told = capsys.readouterr().out
    assert all(str(result_of(own_sweep, k, "filters", LAST - 1)) in told for k in KS)
    assert not result_of(own_sweep, 4, "filters").exists()
    assert (own_sweep / "sweep.parquet").read_bytes() == before, "pictures are no number by k"


def test_evaluated__leaves_out_what_cannot_be_compared(own_sweep: Path) -> None:
    knn(own_sweep / "k=00004")
    knn(own_sweep / "k=00008", overrides={"ks": [1]})
    shutil.copytree(result_of(own_sweep, 4), result_of(own_sweep, 4, "same"))

    found = evaluated(open_sweep(RunFolder(own_sweep)))

    assert found.unlike == (f"knn of epoch {LAST}",)
    assert set(found.table["result"]) == {"same"}, "of one k alone, nothing is otherwise"
    shutil.rmtree(own_sweep / "k=00004/checkpoints")
    found = evaluated(open_sweep(RunFolder(own_sweep)))
    assert found.unlike == (f"knn of epoch {LAST}", f"same of epoch {LAST}")
