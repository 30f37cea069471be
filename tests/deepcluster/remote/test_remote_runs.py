"""Runs on an object store: made, continued on another machine, read, and counted."""

from collections.abc import Callable
from pathlib import Path

import pytest

import deepcluster
from deepcluster_core.errors import ConfigError
from tests.support.remote_runs import Machine, contents, manifests_written
from tests.support.store_proxy import StoreProxy

Here = Callable[[str], Machine]


def test_run_epochs__a_second_machine_goes_on_where_the_first_stopped(
    here: Here, url: str, recipe: Path, local_run: Path, proxy: StoreProxy
) -> None:
    first = here("first")
    deepcluster.run_epochs(recipe, url, epochs=1, echo=False)
    made = manifests_written(proxy)
    assert len(made) == 5, "images, features, labels, checkpoint, metrics"
    proxy.forget()

    second = here("second")
    deepcluster.run_epochs(recipe, url, epochs=2, echo=False)

    assert not {*made} & {*manifests_written(proxy)} - {made[1]}, "only the features are pruned"
    assert contents(second.mirror) == contents(local_run)
    fetched = {path.relative_to(second.mirror).as_posix() for path in second.mirror.rglob("*")}
    # What training and extracting in epoch 1 read of epoch 0, and what its metrics compare with.
    assert "checkpoints/epoch=0000/model.safetensors" in fetched
    assert "labels/epoch=0000/labels.parquet" in fetched
    assert "features/epoch=0000/features.zarr" not in fetched, "nothing reads these features"
    assert first.mirror != second.mirror


def test_run_epochs__requests_of_an_epoch(
    here: Here, url: str, recipe: Path, proxy: StoreProxy
) -> None:
    here("first")
    deepcluster.run_epochs(recipe, url, epochs=1, echo=False)
    proxy.forget()
    deepcluster.run_epochs(recipe, url, epochs=2, echo=False)
    to_begin = [one for one in proxy.requests if "epoch%3D0001" not in one.path]
    of_epoch = [one for one in proxy.requests if "epoch%3D0001" in one.path]

    num_shards = sum("/c/" in one.path for one in of_epoch)
    assert num_shards == 8
    # 4 manifests, and 6 files: the array's description, 2 of labels, 2 of the checkpoint, metrics.
    assert len(of_epoch) == num_shards + 10
    assert not [one for one in of_epoch if one.method == "LIST"]
    # The features of epoch 0 are pruned with two requests: together, shards + 12.
    pruning = [one for one in to_begin if one.method in ("PUT", "POST")]
    assert len([one for one in pruning if "_lease" not in one.path]) <= 2 + 1 + 1, "and the config"


def test_run_epochs__a_finished_run_asks_once_for_each_manifest(
    here: Here, url: str, recipe: Path, proxy: StoreProxy
) -> None:
    here("first")
    deepcluster.run_epochs(recipe, url, echo=False)
    proxy.forget()

    deepcluster.run_epochs(recipe, url, echo=False)

    counts = proxy.counts()
    assert counts["GET"] == 1 + 4 * 2, "images, and four for each epoch; answered 304"
    assert counts["PUT"] == 1, "the lease"
    assert counts["LIST"] <= 2 + 4, "the run's folder, before and after the lease, and each kind"


def test_open_run__reads_a_run_that_another_machine_made(
    here: Here, url: str, recipe: Path, local_run: Path
) -> None:
    here("first")
    deepcluster.run_epochs(recipe, url, echo=False)

    here("second")
    run = deepcluster.open_run(url)

    expected = deepcluster.open_run(local_run)
    assert run.labels().equals(expected.labels())
    assert (run.features() == expected.features()).all()
    assert (run.image(7) == expected.image(7)).all()
    assert len(run.metrics()) == 2


def test_open_run__what_is_no_run_says_so(here: Here, url: str) -> None:
    here("first")
    with pytest.raises(ConfigError, match=r"s3://bucket/.*: is not a run"):
        deepcluster.open_run(url)


def test_open_run__credentials_in_a_url_are_refused(here: Here) -> None:
    here("first")
    with pytest.raises(ConfigError, match="must not hold credentials") as refused:
        deepcluster.open_run("s3://AKIAKEY:sEcReT@bucket/runs/demo")
    assert "sEcReT" not in str(refused.value)


@pytest.mark.slow
def test_run_epochs__a_damaged_copy_is_fetched_again(
    here: Here, url: str, recipe: Path, local_run: Path
) -> None:
    only = here("first")
    deepcluster.run_epochs(recipe, url, epochs=1, echo=False)
    for name in ("checkpoints/epoch=0000/model.safetensors", "labels/epoch=0000/labels.parquet"):
        path = only.mirror / name
        path.write_bytes(path.read_bytes()[:-1])

    deepcluster.run_epochs(recipe, url, epochs=2, echo=False)

    assert contents(only.mirror) == contents(local_run)
