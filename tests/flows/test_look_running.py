"""`deepcluster look` on a run that goes on while the pages are open."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from deepcluster_core.artifacts.commit import prune
from deepcluster_core.errors import ArtifactError
from flows.look.contents import RunContents, UnknownPageError
from flows.look.orders import OutlierScores
from stages.runs.past_run import PastRun
from tests.support.flow_runs import KEEP_ALL
from tests.support.look_server import rows_of, serving_look
from tests.support.plain_runs import make_run

LAST, NEXT = 2, 3
"""The last epoch of the run when the server starts, and the one that it gains."""


@pytest.mark.slow
def test_look__shows_an_epoch_that_the_run_gains(recipe: Path, own_run: Path) -> None:
    with serving_look(own_run, own_run.parent) as served, served.client() as client:
        assert client.get("/").url.path == f"/epoch/{LAST}/"
        assert client.get(f"/epoch/{NEXT}/").status_code == 404
        for cluster in range(8):
            name = {"name": f"group {cluster}"}
            client.post(f"/epoch/{LAST}/cluster/{cluster}/name", json=name)

        make_run(recipe, own_run, epochs=NEXT + 1, overrides=KEEP_ALL)

        page = client.get("/")
        assert page.url.path == f"/epoch/{NEXT}/"
        assert "group" in page.text, "names are carried to the new epoch"
        assert f"<option>{NEXT}</option>" in client.get(f"/epoch/{LAST}/").text
        assert "group 3" in client.get(f"/epoch/{LAST}/cluster/3").text
        image = client.get(f"/epoch/{NEXT}/image/5").text
        assert f"<small>epoch {NEXT}</small>" in image
        assert image.count('class="tile"') > 1, "its features are there"
        assert client.get(f"/epoch/{NEXT}/moves?since={LAST}").status_code == 200
        ticked = {"form": "csv", "images": [5], "clusters": []}
        for epoch in (LAST, NEXT):
            (row,) = rows_of(client.post(f"/epoch/{epoch}/take-out", json=ticked).text)
            assert row["epoch"] == str(epoch)


@pytest.mark.slow
def test_look__features_stay_in_memory_when_the_run_deletes_them(
    recipe: Path, own_run: Path
) -> None:
    with serving_look(own_run, own_run.parent) as served, served.client() as client:
        similar = client.get(f"/epoch/{LAST}/image/5").text
        make_run(recipe, own_run, epochs=NEXT + 1)  # keeps the features of the last epoch alone

        def with_similar(epoch: int) -> str:
            return client.get(f"/epoch/{epoch}/image/5").text.partition("Most similar")[2]

        assert with_similar(LAST) == similar.partition("Most similar")[2]
        assert "deleted to save space" in with_similar(0)
        assert "deepcluster stage extract" in with_similar(0), "the way out"


def test_epoch_contents__finds_features_that_came_back(recipe: Path, own_run: Path) -> None:
    run = RunContents(PastRun.open(str(own_run)), None)
    features = own_run / f"features/epoch={LAST:04d}"
    aside = own_run.parent / "aside"
    scores = OutlierScores()
    image = np.array([5])
    shutil.copytree(features, aside)
    prune(features)
    with pytest.raises(ArtifactError, match="deepcluster stage extract"):
        run.at(LAST).neighbours(image, 3)
    cluster = int(run.at(LAST).labels.cluster_N[5])
    with pytest.raises(ArtifactError, match="deepcluster stage extract"):
        scores.scores_of(run.at(LAST), cluster)

    shutil.rmtree(features)
    aside.rename(features)

    assert run.at(LAST).neighbours(image, 3).image_id_NM.shape == (1, 3)
    assert isinstance(scores.scores_of(run.at(LAST), cluster), np.ndarray)
    scores.close()


def test_run_contents__reads_again_only_what_has_changed(recipe: Path, own_run: Path) -> None:
    run = RunContents(PastRun.open(str(own_run)), None)
    first, last = run.at(0), run.at(LAST)
    assert run.history(5)[-1][0] == LAST

    make_run(recipe, own_run, epochs=NEXT + 1, overrides=KEEP_ALL)

    assert run.at(0) is first
    assert run.at(LAST) is last
    assert run.first_shown == NEXT
    assert [epoch for epoch, _ in run.history(5)] == [0, 1, LAST, NEXT]

    shutil.rmtree(own_run / f"labels/epoch={NEXT:04d}")
    with pytest.raises(UnknownPageError, match="no labels of epoch 3"):
        run.at(NEXT)
    assert run.first_shown == LAST


def test_run_contents__says_that_all_labels_are_gone(own_run: Path) -> None:
    run = RunContents(PastRun.open(str(own_run)), None)
    shutil.rmtree(own_run / "labels")

    with pytest.raises(ArtifactError, match="Fix: start `deepcluster look` again"):
        run.at(LAST)
