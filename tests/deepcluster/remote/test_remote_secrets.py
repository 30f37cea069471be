"""What runs on object stores must not do: write down credentials, or cost local runs anything."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.object_stores import ACCESS_KEY, SECRET_KEY
from tests.support.remote_runs import Machine
from tests.support.store_proxy import StoreProxy
from tests.support.timeouts import WITHIN_S

COMMAND = "from flows.cli.start import main; main()"
IMPORTED = """
import sys, deepcluster
deepcluster.run_epochs(sys.argv[1], sys.argv[2], epochs=1, echo=False)
deepcluster.open_run(sys.argv[2]).labels()
clients = ("obstore", "deepcluster_core.artifacts.remote.mirror")
names = [name for name in clients if name in sys.modules]
assert not names, names
"""


def _command(machine: Machine, home: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {
        "PATH": str(Path(sys.executable).parent),
        "HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "XDG_CACHE_HOME": str(machine.scratch),
        "PYTHONPATH": ":".join(sys.path),
        **machine.environment,
    }
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        env=environment,
        cwd=home,
        capture_output=True,
        check=False,
        timeout=WITHIN_S,
    )


@pytest.mark.slow
def test_run__no_file_and_no_output_holds_a_credential(
    machine: Callable[[str], Machine], url: str, recipe: Path, tmp_path: Path, proxy: StoreProxy
) -> None:
    first, home = machine("first"), tmp_path / "home"
    home.mkdir()
    ended = [
        _command(first, home, "run", str(recipe), "--run", url, "--epochs", "1"),
        _command(first, home, "show", url),
        _command(first, home, "table", url, "--out", "table.parquet"),
        # Nothing listens there, so that this fails.
        _command(
            Machine(first.scratch, {**first.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
            home,
            *("--debug", "show", url),
        ),
    ]
    assert [one.returncode for one in ended[:3]] == [0, 0, 0], ended
    assert ended[3].returncode == 2, ended[3]

    secrets = (SECRET_KEY.encode(), ACCESS_KEY.encode())
    for one in ended:
        assert not any(secret in one.stdout + one.stderr for secret in secrets)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"prefect.db", "config.yaml", "report.html", "table.parquet"} <= {
        path.name for path in written
    }
    for path in written:
        assert not any(secret in path.read_bytes() for secret in secrets), path


@pytest.mark.slow
def test_run_epochs__a_local_run_imports_no_client(recipe: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", IMPORTED, str(recipe), str(tmp_path / "run")],
        check=True,
        timeout=WITHIN_S,
    )
