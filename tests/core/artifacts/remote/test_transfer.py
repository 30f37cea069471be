"""Push and pull: by function here, and by the command in tests/flows/test_push_pull.py."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deepcluster_core.artifacts.commit import UNFINISHED
from deepcluster_core.artifacts.manifest import MANIFEST, Condition, inspect
from deepcluster_core.artifacts.remote.client import PATIENCE
from deepcluster_core.artifacts.remote.store import Store
from deepcluster_core.artifacts.remote.transfer import Transferred, pull_run, push_run
from deepcluster_core.errors import ArtifactError, ConfigError, StoreError
from deepcluster_core.progress import silent
from tests.support.object_stores import environment_of
from tests.support.store_proxy import Fault, StoreProxy
from tests.support.stored_artifacts import LARGE, write_artifact
from tests.support.timeouts import WITHIN_S

ALWAYS = 1_000_000
LABELS = "labels/epoch=0000"
FEATURES = "features/epoch=0000"
EVALUATION = "evaluations/knn/epoch=0000"

TRANSFER = """
import sys
from pathlib import Path
from deepcluster_core.artifacts.remote.transfer import pull_run, push_run
from deepcluster_core.progress import silent
direction, run, url = sys.argv[1:]
if direction == "push":
    push_run(Path(run), url, silent)
else:
    pull_run(url, Path(run), silent)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of three artifacts, one of them with several files."""
    root = tmp_path / "run"
    shards = {
        f"features.zarr/c/{number}/0": np.random.default_rng(number).bytes(LARGE)
        for number in range(6)
    }
    write_artifact(root / FEATURES, shards, key="features")
    write_artifact(root / LABELS, {"labels.parquet": b"labels"}, key="labels")
    write_artifact(root / EVALUATION, {"results.parquet": b"results"}, key="knn")
    (root / "config.yaml").write_text("epochs: 1")
    (root / "cluster_names.csv").write_text("cluster,name")
    (root / ".prefect").mkdir()
    (root / ".prefect/secret").write_text("of this machine")
    unfinished = root / "labels/epoch=0001"
    unfinished.mkdir()
    (unfinished / UNFINISHED).touch()
    (unfinished / "labels.parquet").write_bytes(b"half")
    return root


def digests(root: Path) -> dict[str, str]:
    """Return the digest of each file of a run, except hidden ones and unfinished artifacts."""
    found: dict[str, str] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.is_file() and not is_hidden and not name.startswith("labels/epoch=0001"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_push_pull__equal_bytes(proxy: StoreProxy, url: str, run: Path, tmp_path: Path) -> None:
    pushed = push_run(run, url, silent)
    pulled = pull_run(url, tmp_path / "copy", silent)

    num_bytes = 6 * LARGE + len(b"labels") + len(b"results")
    others = ["cluster_names.csv", "config.yaml"]
    assert pushed == Transferred(3, 0, num_bytes, others, ["labels/epoch=0001"])
    assert pulled == Transferred(3, 0, num_bytes, others, [])
    assert digests(tmp_path / "copy") == digests(run)
    for name in (FEATURES, LABELS, EVALUATION):
        assert inspect(tmp_path / "copy" / name) == (Condition.WHOLE, "")
    names = [found.name for found in Store(url).list("")]
    assert not [name for name in names if "secret" in name or "epoch=0001" in name]
    assert not [*(tmp_path / "copy").rglob(UNFINISHED)]


def test_push__again_sends_nothing(
    moto_proxy: StoreProxy, url: str, run: Path, tmp_path: Path
) -> None:
    push_run(run, url, silent)
    pull_run(url, tmp_path / "copy", silent)
    moto_proxy.forget()

    pushed = push_run(tmp_path / "copy", url, silent)
    pulled = pull_run(url, tmp_path / "copy", silent)

    assert (pushed.artifacts, pushed.artifacts_there, pushed.others) == (0, 3, [])
    assert (pulled.artifacts, pulled.artifacts_there, pulled.others) == (0, 3, [])
    assert moto_proxy.counts_of("_probe")["PUT"] == moto_proxy.counts()["PUT"]


def test_push__only_what_is_new(moto_proxy: StoreProxy, url: str, run: Path) -> None:
    push_run(run, url, silent)
    write_artifact(run / "labels/epoch=0002", {"labels.parquet": b"new"}, key="new")
    (run / "config.yaml").write_text("epochs: 3")
    moto_proxy.forget()

    pushed = push_run(run, url, silent)

    assert (pushed.artifacts, pushed.others) == (1, ["config.yaml"])
    assert moto_proxy.counts_of("features.zarr") == {}


def test_push__progress_counts_bytes(moto_proxy: StoreProxy, url: str, run: Path) -> None:
    seen: list[tuple[int, int | None]] = []

    pushed = push_run(run, url, lambda done, total: seen.append((done, total)))

    assert seen[0] == (0, pushed.bytes)
    assert seen[-1] == (pushed.bytes, pushed.bytes)


def test_push__interrupted_goes_on(
    moto_proxy: StoreProxy, url: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "5")
    moto_proxy.fail(Fault("busy", "PUT", "c/5/0", times=ALWAYS))
    with pytest.raises(StoreError, match="c/5/0"):
        push_run(run, url, silent)
    assert Store(url).get(f"{FEATURES}/{MANIFEST}") is None
    moto_proxy.forget()
    monkeypatch.setenv(PATIENCE, "60")

    push_run(run, url, silent)

    assert moto_proxy.counts_of("features.zarr") == {"HEAD": 5, "PUT": 1}


def test_pull__interrupted_goes_on(
    moto_proxy: StoreProxy,
    url: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push_run(run, url, silent)
    monkeypatch.setenv(PATIENCE, "5")
    moto_proxy.fail(Fault("busy", "GET", "c/5/0", times=ALWAYS))
    copy = tmp_path / "copy"
    with pytest.raises(StoreError, match="c/5/0"):
        pull_run(url, copy, silent)
    assert inspect(copy / FEATURES)[0] is Condition.UNFINISHED
    assert not (copy / "config.yaml").exists()
    moto_proxy.forget()
    monkeypatch.setenv(PATIENCE, "60")

    pull_run(url, copy, silent)

    assert digests(copy) == digests(run)
    assert moto_proxy.counts_of("features.zarr") == {"GET": 1}


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["push", "pull"])
def test_transfer__killed_at_any_time_goes_on(
    proxy: StoreProxy, url: str, run: Path, tmp_path: Path, direction: str
) -> None:
    """Kill -9 after each further request; what is there in between is never a wrong artifact."""
    copy = tmp_path / "copy"
    if direction == "pull":
        push_run(run, url, silent)
    command = [sys.executable, "-c", TRANSFER, direction, run if direction == "push" else copy, url]
    environment = os.environ | environment_of(proxy.address)
    num_kills = 0
    for num_requests in range(1, 80, 5):
        proxy.forget()
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        while process.poll() is None and len(proxy.requests) < num_requests:
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            num_kills += 1
        process.wait(timeout=WITHIN_S)
        if direction == "push":
            shutil.rmtree(tmp_path / "seen", ignore_errors=True)
            if [found.name for found in Store(url).list("") if found.name.endswith(MANIFEST)]:
                pull_run(url, tmp_path / "seen", silent)
                assert digests(tmp_path / "seen").items() <= digests(run).items()
    assert num_kills >= 3

    if direction == "push":
        push_run(run, url, silent)
    pull_run(url, copy, silent)

    assert digests(copy) == digests(run)


def test_push__another_run_is_there(
    moto_proxy: StoreProxy, url: str, run: Path, tmp_path: Path
) -> None:
    push_run(run, url, silent)
    write_artifact(run / LABELS, {"labels.parquet": b"different"}, key="other")

    with pytest.raises(ConfigError, match=r"have different artifacts: labels/epoch=0000\."):
        push_run(run, url, silent)
    with pytest.raises(ConfigError, match="have different artifacts"):
        pull_run(url, run, silent)
    push_run(run, url, silent, update=True)

    pull_run(url, tmp_path / "copy", silent)
    assert digests(tmp_path / "copy") == digests(run)


def test_push__nothing_in_common(
    moto_proxy: StoreProxy, url: str, run: Path, tmp_path: Path
) -> None:
    push_run(run, url, silent)
    other = tmp_path / "other"
    write_artifact(other / "images", {"index.parquet": b"index"})

    with pytest.raises(ConfigError, match="two different runs"):
        push_run(other, url, silent)
    with pytest.raises(ConfigError, match="two different runs"):
        pull_run(url, other, silent)


def test_pull__local_change_of_a_small_file(
    moto_proxy: StoreProxy, url: str, run: Path, tmp_path: Path
) -> None:
    push_run(run, url, silent)
    copy = tmp_path / "copy"
    pull_run(url, copy, silent)
    (run / "cluster_names.csv").write_text("of one")
    push_run(run, url, silent)
    (copy / "cluster_names.csv").write_text("of the other")

    with pytest.raises(ArtifactError, match="was changed on the store"):
        pull_run(url, copy, silent)

    assert (copy / "cluster_names.csv").read_text() == "of the other"
    pull_run(url, copy, silent, update=True)
    assert (copy / "cluster_names.csv").read_text() == "of one"


def test_push__store_was_emptied(moto_proxy: StoreProxy, url: str, run: Path) -> None:
    push_run(run, url, silent)
    store = Store(url)
    store.delete([found.name for found in store.list("")])

    pushed = push_run(run, url, silent)

    assert (pushed.artifacts, pushed.others) == (3, ["cluster_names.csv", "config.yaml"])


def test_push__file_missing_on_the_store_is_repaired(
    moto_proxy: StoreProxy, url: str, run: Path, tmp_path: Path
) -> None:
    push_run(run, url, silent)
    Store(url).delete([f"{FEATURES}/features.zarr/c/2/0"])

    assert push_run(run, url, silent).artifacts == 1

    pull_run(url, tmp_path / "copy", silent)
    assert digests(tmp_path / "copy") == digests(run)


def test_push__damaged_artifact(moto_proxy: StoreProxy, url: str, run: Path) -> None:
    (run / LABELS / "labels.parquet").write_bytes(b"changed")

    with pytest.raises(ArtifactError, match=r"is damaged: .*; nothing was sent\.\n  Fix:"):
        push_run(run, url, silent)

    assert moto_proxy.requests == []


def test_pull__tampered_object(moto_proxy: StoreProxy, url: str, run: Path, tmp_path: Path) -> None:
    push_run(run, url, silent)
    Store(url).put(f"{LABELS}/labels.parquet", b"lebals")

    with pytest.raises(ArtifactError, match="its contents differ from the digest"):
        pull_run(url, tmp_path / "copy", silent)

    assert not (tmp_path / "copy" / LABELS / MANIFEST).exists()


def test_pull__no_run_there(moto_proxy: StoreProxy, url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run"):
        pull_run(url, tmp_path / "copy", silent)

    assert not (tmp_path / "copy").exists()


def test_pull__replaces_an_interrupted_attempt(
    moto_proxy: StoreProxy, url: str, run: Path, tmp_path: Path
) -> None:
    push_run(run, url, silent)
    copy = tmp_path / "copy"
    (copy / LABELS).mkdir(parents=True)
    (copy / LABELS / UNFINISHED).touch()
    (copy / LABELS / "labels.parquet").write_bytes(b"half")

    pull_run(url, copy, silent)

    assert inspect(copy / LABELS) == (Condition.WHOLE, "")
    assert digests(copy) == digests(run)
