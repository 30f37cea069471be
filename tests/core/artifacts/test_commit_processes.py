"""Artifacts and locks of several processes, also when one is killed."""

import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

from deepcluster_core.artifacts.commit import (
    UNFINISHED,
    lock,
)
from deepcluster_core.artifacts.manifest import (
    Condition,
    inspect,
)
from tests.support.text_artifacts import commit
from tests.support.timeouts import WITHIN_S

TAKES_THE_LOCK = """
import sys
from pathlib import Path
from deepcluster_core.artifacts.commit import lock
folder = Path(sys.argv[1])
print("trying", flush=True)
with lock(folder):
    (folder.parent / "order").open("a").write("child ")
"""


WRITES_FOR_EVER = """
import sys, time
from pathlib import Path
from deepcluster_core.artifacts.commit import lock, new_artifact
from deepcluster_core.artifacts.manifest import Stage
from deepcluster_core.context import Context
folder = Path(sys.argv[1])
stage = Stage(name="group", version=1, kind="groups", files=("table",))
with lock(folder), new_artifact(stage, folder, config={}, inputs={}, context=Context(seed=1)):
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def first_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_lock__keeps_another_process_out(tmp_path: Path) -> None:
    folder, order = tmp_path / "run" / "groups", tmp_path / "run" / "order"
    with lock(folder):
        child = start(TAKES_THE_LOCK, folder)
        assert first_line(child) == "trying"
        time.sleep(0.3)  # a child that the lock did not stop needs some microseconds
        with order.open("a") as file:
            file.write("parent ")
    with child:
        assert child.wait(timeout=WITHIN_S) == 0

    assert order.read_text() == "parent child "


def test_lock__lies_beside_the_folder_and_makes_none(tmp_path: Path) -> None:
    with lock(tmp_path / "groups" / "epoch=0003"):
        assert [path.name for path in (tmp_path / "groups").iterdir()] == [".epoch=0003.lock"]


def test_new_artifact__killed_process_leaves_no_artifact_and_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "groups"
    with start(WRITES_FOR_EVER, folder) as child:
        assert first_line(child) == "writing"
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=WITHIN_S) == -signal.SIGKILL

    assert inspect(folder)[0] is Condition.UNFINISHED
    assert {path.name for path in folder.iterdir()} == {"half", UNFINISHED}
    with (tmp_path / ".groups.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if somebody still holds it
    commit(folder, {"a": "x"})
    assert inspect(folder)[0] is Condition.WHOLE
    assert not (folder / "half").exists()
