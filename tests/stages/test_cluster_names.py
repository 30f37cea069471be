"""Names of clusters in runs whose labels are made for the purpose."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core.errors import ArtifactError, ConfigError
from stages.runs.cluster_names import (
    CLUSTER_NAMES,
    ClusterName,
    is_current,
    name_cluster,
    name_clusters,
    names_at,
    names_from,
    read_entries,
)
from stages.runs.folder import RunFolder
from tests.support.labelled_runs import replace_labels, run_with_labels

K, N = 10, 400
START = np.arange(N) % K


def moved(clusters: NDArray[np.integer], by: int) -> NDArray[np.integer]:
    """Return the clusters with other numbers, and a tenth of the images elsewhere."""
    rng = np.random.default_rng(by)
    renumbered = (clusters + by) % K
    return np.where(rng.random(N) < 0.1, rng.integers(K, size=N), renumbered)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Return a run of three epochs: cluster c is c + 1 an epoch later."""
    second = moved(START, 1)
    return run_with_labels(tmp_path / "run", [START, second, moved(second, 1)])


def test_names_at__carries_names_to_later_and_earlier_epochs(run: RunFolder) -> None:
    name_cluster(run, epoch=1, cluster=3, name=" cats ")

    assert names_at(run, 1) == {3: ClusterName(3, "cats", 1, 1.0)}
    later, earlier = names_at(run, 2), names_at(run, 0)
    assert [(one.cluster, one.name, one.given_at) for one in later.values()] == [(4, "cats", 1)]
    assert [one.cluster for one in earlier.values()] == [2]
    assert 0.8 < later[4].share < 1


def test_names_at__a_name_given_at_the_epoch_wins(run: RunFolder) -> None:
    name_cluster(run, epoch=0, cluster=0, name="cats")
    name_cluster(run, epoch=2, cluster=2, name="dogs")

    assert {number: one.name for number, one in names_at(run, 2).items()} == {2: "dogs"}


def test_names_at__the_nearest_epoch_says_where_a_name_went(run: RunFolder) -> None:
    name_cluster(run, epoch=0, cluster=0, name="cats")
    name_cluster(run, epoch=1, cluster=7, name="cats")

    # The images of cluster 0 are in cluster 2, but since then other images are called cats.
    assert {number: one.given_at for number, one in names_at(run, 2).items()} == {8: 1}


def test_names_at__not_by_chance(tmp_path: Path) -> None:
    unrelated = np.random.default_rng(0).permutation(START)
    run = run_with_labels(tmp_path / "run", [START, unrelated])
    name_cluster(run, epoch=0, cluster=0, name="cats")

    assert names_at(run, 1) == {}


def test_name_cluster__an_empty_name_removes(run: RunFolder) -> None:
    name_cluster(run, epoch=0, cluster=0, name="cats")
    name_cluster(run, epoch=1, cluster=1, name="")

    assert names_at(run, 1) == {}  # not even the one that would be carried
    assert set(names_at(run, 2)) == {2}
    name_cluster(run, epoch=0, cluster=0, name="")
    assert names_at(run, 0) == names_at(run, 2) == {}


def test_name_cluster__replaces_a_name(run: RunFolder) -> None:
    name_cluster(run, epoch=0, cluster=0, name="cats")
    name_cluster(run, epoch=0, cluster=0, name='Große "Katzen", 猫')

    assert [one.name for one in names_at(run, 0).values()] == ['Große "Katzen", 猫']
    assert len(read_entries(run)) == 1


def test_names_at__labels_that_were_replaced(run: RunFolder) -> None:
    name_cluster(run, epoch=0, cluster=0, name="cats")
    replace_labels(run, 0, START[::-1])

    assert names_at(run, 0) == names_at(run, 1) == {}
    (entry,) = read_entries(run)
    assert not is_current(run, entry)


def test_names_at__written_by_hand(run: RunFolder) -> None:
    # As a spreadsheet saves it.
    text = "\ufeffepoch,cluster,name\r\n0,4,cats\r\n0,99,none\r\n"
    (run.root / CLUSTER_NAMES).write_bytes(text.encode())

    assert names_at(run, 0) == {4: ClusterName(4, "cats", 0, 1.0)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("epoch,cluster,name\n0,1,a\n0,x,b\n", "line 3"),
        ("epoch;cluster;name\n0;1;a\n", "no column epoch"),
        ("epoch,cluster,name\n0\n", "line 2"),
        ("", "no column epoch"),
        (b"\xff\xfe\x00", "decode"),
    ],
)
def test_read_entries__damaged(run: RunFolder, text: str | bytes, problem: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (run.root / CLUSTER_NAMES).write_bytes(data)

    with pytest.raises(ArtifactError, match=rf"(?s){problem}.*Fix:"):
        names_at(run, 0)
    with pytest.raises(ArtifactError):
        name_cluster(run, epoch=0, cluster=0, name="cats")
    assert (run.root / CLUSTER_NAMES).read_bytes() == data


@pytest.mark.parametrize(
    ("epoch", "cluster", "name"), [(0, K, "a"), (9, 0, "a"), (0, 0, "a\nb"), (0, 0, "a" * 101)]
)
def test_name_cluster__refuses(run: RunFolder, epoch: int, cluster: int, name: str) -> None:
    with pytest.raises(ConfigError, match="Fix:"):
        name_cluster(run, epoch=epoch, cluster=cluster, name=name)
    assert not (run.root / CLUSTER_NAMES).exists()


@pytest.mark.slow
def test_name_cluster__several_processes_at_once(run: RunFolder) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from stages.runs.cluster_names import name_cluster; "
        "from stages.runs.folder import RunFolder; "
        "run, epoch = RunFolder(Path(sys.argv[1])), int(sys.argv[2]); "
        "[name_cluster(run, epoch=epoch, cluster=c, name=str(c)) for c in range(10)]"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, run.root, str(epoch)]) for epoch in range(3)
    ]

    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(read_entries(run)) == 3 * K


def test_names_from__another_run_that_has_the_images_in_another_order(
    run: RunFolder, tmp_path: Path
) -> None:
    other = run_with_labels(tmp_path / "other", [(START[::-1] + 5) % K], reverse=True)
    name_clusters(run, epoch=0, names={1: "cats", 2: "dogs"})

    found = names_from(run, 0, other, 0)

    assert {number: one.name for number, one in found.items()} == {6: "cats", 7: "dogs"}
    assert found[6].share == 1
