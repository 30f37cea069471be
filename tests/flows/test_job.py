from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.errors import ArtifactError
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.plan import plan
from stages.runs.recipe import load_recipe
from tests.support.run_files import manifests


def jobs_of(run: Path, changes: dict[str, Any] | None = None) -> dict[str, Job]:
    """Return the jobs of the first two epochs by title."""
    recipe = load_recipe(run / "config.yaml", changes)
    source = manifests(run)["images"].inputs["source"]
    return {job.title: job for job in plan(RunFolder(run), recipe, source=source, epochs=2)}


def test_key__is_that_of_the_artifact_it_made(finished_run: Path) -> None:
    made = manifests(finished_run)

    for job in jobs_of(finished_run).values():
        assert job.key() == made[job.out.relative_to(finished_run).as_posix()].key
        assert job.is_done()


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"dataset": {"shorter_side": 17}}, {"index"}),
        ({"extract": {"resize": 17}}, {"extract"}),
        ({"cluster": {"k": 9}}, {"cluster"}),
        ({"train": {"lr": 0.1}}, {"train"}),
        ({"network": {"dropout": 0.25}}, {"extract", "train"}),
        ({"seed": 32}, {"index", "extract", "cluster", "train", "score"}),
        ({"epochs": 9, "keep": {"features": 7}, "compute": {"workers": 7}}, set()),
    ],
)
def test_key__changes_with_what_the_stage_reads(
    changes: dict[str, Any], stages: set[str], finished_run: Path
) -> None:
    before, after = jobs_of(finished_run), jobs_of(finished_run, changes)

    changed = {job.stage.name for title, job in after.items() if job.key() != before[title].key()}

    assert changed == stages


def test_key__of_inputs_that_are_not_there_is_refused(own_run: Path) -> None:
    (own_run / "labels/epoch=0000/_manifest.json").unlink()

    with pytest.raises(ArtifactError, match="labels/epoch=0000: does not hold a finished artifact"):
        jobs_of(own_run)["train epoch 0"].key()


def test_opened_inputs__leaves_out_those_whose_manifest_is_enough(finished_run: Path) -> None:
    jobs = jobs_of(finished_run)

    def opened(title: str) -> set[str]:
        title_of = {job.out: job.title for job in jobs.values()}
        return {title_of[path] for path in jobs[title].opened_inputs()}

    assert opened("index") == set()
    assert opened("extract epoch 0") == {"index"}
    assert opened("train epoch 1") == {"index", "cluster epoch 1", "train epoch 0"}
    assert opened("score epoch 1") == {"index", "cluster epoch 1", "cluster epoch 0"}


def test_plan__images_lie_where_the_recipe_shares_them(finished_run: Path, tmp_path: Path) -> None:
    jobs = jobs_of(finished_run, {"images": str(tmp_path / "shared")})

    assert jobs["index"].out == tmp_path / "shared"
    assert jobs["extract epoch 1"].out == finished_run / "features/epoch=0001"
    assert jobs["extract epoch 1"].inputs["images"] == jobs["index"].out
