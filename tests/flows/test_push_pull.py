"""`deepcluster push` and `deepcluster pull` as commands, on a run and a real object store."""

import os
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from deepcluster_core.artifacts.remote.client import PATIENCE
from tests.support.flow_runs import loop
from tests.support.object_stores import BUCKET, SECRET_KEY, ObjectStoreServer, environment_of
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.run_files import made_since, manifests
from tests.support.timeouts import WITHIN_S


@pytest.fixture
def url() -> str:
    return f"s3://{BUCKET}/runs/{uuid4().hex[:12]}"


def call(*words: object, endpoint: str, code: int = 0) -> str:
    """Run the command, and return what it printed, which must not contain the secret."""
    done = subprocess.run(
        [PROGRAM, *map(str, words)],
        env=ENVIRONMENT | environment_of(endpoint) | {PATIENCE: "1", "DEEPCLUSTER_DEBUG": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    assert done.returncode == code, done.stdout
    assert SECRET_KEY not in done.stdout
    return done.stdout


@pytest.mark.slow
def test_push_pull__a_pulled_run_continues(
    moto_server: ObjectStoreServer, url: str, own_run: Path, recipe: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"

    pushed = call("push", own_run, url, endpoint=moto_server.endpoint)
    pulled = call("pull", url, copy, endpoint=moto_server.endpoint)

    before = manifests(copy)
    assert before == manifests(own_run)
    num_artifacts = len(before)
    assert f"{own_run} -> {url}: {num_artifacts} artifacts (" in pushed
    assert f"{url} -> {copy}: {num_artifacts} artifacts (" in pulled
    assert set(loop(recipe, copy, epochs=4).values()) <= {"Completed", "Cached"}
    epoch_3 = {f"{kind}/epoch=0003" for kind in ("features", "labels", "checkpoints", "metrics")}
    assert made_since(before, copy) == epoch_3
    again = call("push", copy, url, endpoint=moto_server.endpoint)
    assert "4 artifacts (" in again
    assert "nothing to do" in call("push", copy, url, endpoint=moto_server.endpoint)


def test_push__store_that_does_not_answer(url: str, own_run: Path) -> None:
    nobody = "http://127.0.0.1:9"  # nothing listens on this port

    printed = call("push", own_run, url, endpoint=nobody, code=2)

    assert "Connection refused" in printed
    assert "Fix:   run the same command again once the store answers" in printed


def test_push__secrets_in_the_url_and_endpoint(own_run: Path) -> None:
    nobody = f"http://user:{SECRET_KEY}@127.0.0.1:9"
    url = f"s3://key:{SECRET_KEY}@{BUCKET}/runs/demo?X-Amz-Signature={SECRET_KEY}"

    call("push", own_run, url, endpoint=nobody, code=2)

    for path in own_run.rglob("*"):
        assert path.is_dir() or SECRET_KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["push", "RUN", "s3://bucket"], "names no folder for a run"),
        (["push", "RUN", "runs/other"], "is not the URL of an object store"),
        (["pull", "http://host/x", "copy"], "is not the URL of an object store"),
        (["push", "none", "s3://bucket/x"], "is not a run"),
        (["pull", "s3://bucket/x", "s3://bucket/y"], "only paths on this machine"),
    ],
)
def test_push_pull__wrong_words(words: list[str], message: str, own_run: Path) -> None:
    given = [str(own_run) if word == "RUN" else word for word in words]

    assert message in call(*given, endpoint="http://127.0.0.1:9", code=2)


def test_push__without_the_extra(own_run: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "obstore.py").write_text("raise ImportError('not installed')")
    paths = f"{blocked}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    done = subprocess.run(
        [PROGRAM, "push", own_run, "s3://bucket/x"],
        env=ENVIRONMENT | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )

    assert done.returncode == 2
    assert 'Fix: pip install "deepcluster-pipeline[remote]"' in done.stderr
