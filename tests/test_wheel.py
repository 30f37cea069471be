"""The built wheel, in an environment and a folder of its own, where no checkout is near."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("deepcluster", "flows", "stages", "deepcluster_core")
SMALL = ["dataset.subset=1000", "cluster.k=20", "cluster.pca_dim=auto", "train.lr=0.001"]


@pytest.fixture(scope="module")
def uv() -> Path:
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("uv is not installed")
    return Path(found)


@pytest.fixture(scope="module")
def wheel(uv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source distribution, as a package index or pip would."""
    out = tmp_path_factory.mktemp("dist")
    run([uv, "build", "--no-build-isolation", "--python", sys.executable, "--out-dir", out, ROOT])
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(uv: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment, with the packages of the lock and no other."""
    venv = tmp_path_factory.mktemp("venv")
    python = venv / "bin" / "python"
    run([uv, "venv", "--allow-existing", "--python", sys.executable, venv])
    lock = ["--require-hashes", "--requirement", ROOT / "requirements.lock"]
    run([uv, "pip", "install", "--python", python, *lock])
    run([uv, "pip", "install", "--python", python, "--no-deps", wheel])
    return venv / "bin"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


def run(command: list[str | Path], **options: object) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN_S,
        check=False,
        **options,  # pyright: ignore[reportArgumentType, reportCallIssue]
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def environment(here: Path) -> dict[str, str]:
    ours = ("PREFECT_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"HOME": str(here / "home"), "OMP_NUM_THREADS": "1"}


def typed(bin_folder: Path, here: Path, line: str) -> str:
    program, *words = line.split()
    return run([bin_folder / program, *words], cwd=here, env=environment(here))


def test_wheel__holds_all_files_of_the_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    folders = [ROOT / name for name in PACKAGES]
    wanted = {
        str(path.relative_to(ROOT))
        for folder in folders
        for pattern in ("*.py", "*.css", "*.js", "*.j2", "py.typed")
        for path in folder.rglob(pattern)
    }
    configs = [path for path in (ROOT / "configs").rglob("*") if path.is_file()]
    wanted |= {f"deepcluster_core/{path.relative_to(ROOT)}" for path in configs}
    wanted |= {"deepcluster_core/prefect.yaml"}

    assert wanted - held == set()
    top = {name.partition("/")[0] for name in held}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_wheel__every_command_of_a_first_day_works(bin_folder: Path, here: Path) -> None:
    def deepcluster(line: str) -> str:
        return typed(bin_folder, here, f"deepcluster {line}")

    assert deepcluster("--version").startswith("deepcluster 0.")
    assert "mine.yaml" in deepcluster("init mine")
    small = " ".join(f"--set {one}" for one in SMALL)
    assert "runs/demo: 1 epoch" in deepcluster(f"run demo --epochs 1 {small}")
    assert "every stage Cached" in deepcluster(f"run configs/demo.yaml --epochs 1 {small}")
    assert "top1" in deepcluster("evaluate knn runs/demo")
    assert "Cached" in deepcluster("evaluate knn demo")
    assert "DeepCluster" in deepcluster("evaluate table1 runs/demo")
    assert deepcluster("report demo").strip().endswith("report.html")


def test_wheel__serve_runs_its_deployments(bin_folder: Path, here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = here / "serve.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [bin_folder / "deepcluster", "serve", "--port", str(port)],
            cwd=here,
            env=environment(here),
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as served,
    ):
        try:
            deadline = time.monotonic() + WITHIN_S
            while "The UI:" not in log.read_text():
                assert served.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            small = '{"dataset": {"subset": 1000}, "cluster": {"k": 20, "pca_dim": "auto"}}'
            given = ["recipe=demo", "run=served", "epochs=1", f"overrides={small}"]
            parameters = [word for one in given for word in ("--param", one)]
            deployment = ["deployment", "run", "deepcluster/epoch-loop", *parameters, "--watch"]
            told = run([bin_folder / "prefect", *deployment], cwd=here, env=environment(here))
        finally:
            served.send_signal(signal.SIGTERM)
            served.wait(WITHIN_S)
    assert "Completed" in told, log.read_text()
    assert (here / "runs/served/labels/epoch=0000/labels.parquet").exists()
