"""The oldest and the newest Prefect that pyproject.toml admits, beside the locked one."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.timeouts import WITHIN_S

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/flows/test_internals.py",
    "tests/flows/test_embedded.py",
    "tests/flows/test_epoch_loop.py::test_deepcluster__second_run_is_cached_throughout",
)
"""What touches the parts of Prefect that are not its public interface: its server, its workers for
logs and events, and how it records tasks."""


def admitted(name: str) -> str:
    """Return what pyproject.toml requires of a package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = (text for text in project["dependencies"] if text.startswith(f"{name}>"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_prefect__at_the_ends_of_its_range(resolution: str, tmp_path: Path) -> None:
    if (uv := shutil.which("uv", path=str(Path(sys.executable).parent))) is None:
        pytest.skip("needs uv, which can install the lowest versions")
    target = tmp_path / "packages"
    install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(target)]
    options = ["--resolution", resolution, admitted("prefect"), admitted("fastapi")]
    subprocess.run([*install, *options], check=True, timeout=WITHIN_S)
    (installed,) = target.glob("prefect-*.dist-info")
    path = os.pathsep.join([str(target), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    version = run(["-c", "import prefect; print(prefect.__version__)"], environment)
    assert installed.name == f"prefect-{version.strip()}.dist-info"
    run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS], environment)


def run(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout
