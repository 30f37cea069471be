"""Commands on a run that lies on an object store, on a machine that has nothing of it yet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import zarr

import deepcluster
from deepcluster_core.artifacts.remote.transfer import push_run
from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.progress import silent
from flows.evaluate import evaluate
from flows.look.contents import RunContents
from flows.show.takeaway import show_duplicates
from stages.evaluations.shared.results import read_results
from stages.runs.job_variables import recipe_and_count
from stages.runs.locate import run_folder_of
from stages.runs.new_images import assign, embed
from stages.runs.past_run import PastRun
from tests.support.flow_runs import KEEP_ALL
from tests.support.object_stores import BUCKET, ObjectStoreServer
from tests.support.plain_runs import make_run
from tests.support.refusals import typed
from tests.support.stored_images import reached, upload
from tests.support.timeouts import eventually


@pytest.fixture
def url(
    seaweedfs_server: ObjectStoreServer,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Yield the URL of a copy of the finished run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"s3://{BUCKET}/commands/{uuid4().hex[:12]}"
    with reached(seaweedfs_server.endpoint):
        push_run(finished_run, url, silent)
        yield url


@pytest.fixture
def images_url(url: str, seaweedfs_server: ObjectStoreServer, tiny_images: Path) -> str:
    """Return the URL of a copy of the images."""
    place = f"{url}-images"
    upload(seaweedfs_server, tiny_images, place.removeprefix(f"s3://{BUCKET}/"))
    return place


def command(*words: str | Path) -> None:
    """Run a command in this process, which must succeed."""
    with pytest.raises(SystemExit) as ended:
        typed(*words)
    assert ended.value.code == 0


def test_assign__of_a_run_on_a_store(url: str, finished_run: Path, tiny_images: Path) -> None:
    assign(url, tiny_images / "disc", out=Path("there.parquet"))
    assign(str(finished_run), tiny_images / "disc", out=Path("here.parquet"))

    found, expected = pd.read_parquet("there.parquet"), pd.read_parquet("here.parquet")
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_embed__of_a_run_on_a_store(url: str, finished_run: Path, tiny_images: Path) -> None:
    embed(url, tiny_images / "disc", out=Path("there.zarr"))
    embed(str(finished_run), tiny_images / "disc", out=Path("here.zarr"))

    found, expected = (zarr.open_array(name, mode="r")[:] for name in ("there.zarr", "here.zarr"))
    assert np.array_equal(found, expected)


def test_duplicates__of_a_run_on_a_store(url: str, finished_run: Path) -> None:
    for run, out in ((url, "there.parquet"), (str(finished_run), "here.parquet")):
        show_duplicates(
            run_folder_of(Path(run)), threshold=0.99, out=Path(out), epoch=None, limit=10
        )

    found, expected = pd.read_parquet("there.parquet"), pd.read_parquet("here.parquet")
    assert len(expected) > 0
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_evaluate__with_other_images_of_a_run_on_a_store(
    url: str, own_run: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(run: str) -> list[dict[str, Any]]:
        evaluate(name="knn", run=run, data=str(tiny_images))
        (results,) = Path(run_folder_of(Path(run))).glob("evaluations/knn/epoch=*")
        return read_results(results)

    expected = judged(str(own_run))

    assert judged(url) == expected
    # Another machine finds the packed images and the results.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert judged(url) == expected


def test_assign__of_images_on_a_store(
    images_url: str, finished_run: Path, tiny_images: Path
) -> None:
    names = sorted(path.name for path in (tiny_images / "disc").iterdir())[:3]
    Path("urls.txt").write_text("".join(f"{images_url}/disc/{name}\n" for name in names))
    assign(str(finished_run), tiny_images / "disc", out=Path("here.parquet"))
    table = pd.read_parquet("here.parquet")
    here = dict(zip(table["path"], table["cluster"], strict=True))

    def clusters_of(source: str) -> dict[str, int]:
        out = Path(f"{source.rpartition('/')[2]}.parquet")
        command("assign", finished_run, source, "--out", out)
        found = pd.read_parquet(out)
        return dict(zip(found["path"].str.rpartition("/")[2], found["cluster"], strict=True))

    assert clusters_of(f"{images_url}/disc/{names[1]}") == {names[1]: here[names[1]]}
    assert clusters_of("urls.txt") == {name: here[name] for name in names}
    assert clusters_of(f"{images_url}/disc") == here


def test_embed__of_images_on_a_store(
    images_url: str, finished_run: Path, tiny_images: Path
) -> None:
    name = next((tiny_images / "disc").iterdir()).name
    run = deepcluster.open_run(finished_run)

    here = run.embed(tiny_images / "disc" / name)
    there = run.embed(f"{images_url}/disc/{name}")

    assert there.paths == here.paths == [name]
    assert np.array_equal(there.features, here.features)
    with pytest.raises(SourceError, match=r"no\.png: does not exist\.\n  Fix: give"):
        run.assign(f"{images_url}/disc/no.png")


@pytest.mark.slow
def test_evaluate__with_images_on_a_store(
    images_url: str, own_run: Path, tiny_images: Path
) -> None:
    def judged(data: str, result: str) -> list[dict[str, Any]]:
        command("evaluate", "knn", own_run, "--data", data, "--as", result)
        (results,) = own_run.glob(f"evaluations/{result}/epoch=*")
        return read_results(results)

    assert judged(images_url, "there") == judged(str(tiny_images), "here")


def test_job_variables__of_a_run_on_a_store(
    url: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, count = recipe_and_count(url, {"cluster": {"k": 3}})
    assert (recipe.cluster.k, count) == (3, 240)
    assert recipe_and_count(str(finished_run), {"dataset": {"subset": 9}})[1] is None

    printed: list[str] = []
    for run in (url, str(finished_run), str(finished_run / "config.yaml")):
        command("job-variables", run, "--pool-type", "docker")
        printed.append(capsys.readouterr().out)
    assert printed[0].startswith("--job-variable mem_limit=")
    assert printed[0] == printed[1] == printed[2]


def test_open_run__sees_an_epoch_that_the_store_has_gained(
    url: str, recipe: Path, own_run: Path
) -> None:
    before = deepcluster.open_run(url)
    assert before.epochs == [0, 1, 2]

    make_run(recipe, own_run, epochs=4, overrides=KEEP_ALL)
    push_run(own_run, url, silent)

    assert deepcluster.open_run(url).epochs == [0, 1, 2, 3]


def test_run_contents__shows_an_epoch_that_the_store_has_gained(
    url: str, recipe: Path, own_run: Path
) -> None:
    shown = RunContents(PastRun.open(run_folder_of(Path(url))), None, ask_store_every_s=0)
    assert shown.first_shown == 2

    make_run(recipe, own_run, epochs=4, overrides=KEEP_ALL)
    push_run(own_run, url, silent)

    eventually(lambda: shown.first_shown, 3)
    assert shown.at(3).members(0).size > 0
    assert shown.at(2).neighbours(np.array([5]), 3).image_id_NM.shape == (1, 3)


def test_push__of_a_run_on_a_store_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=f"deepcluster pull {url} FOLDER"):
        typed("push", url, f"{url}-copy")
