"""README and docs as a newcomer follows them: every shell command is run in order in a fresh copy.

Each command is a test. Later ones need what earlier ones made, so a test first runs what has not
run yet, and is skipped once a command has failed.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
import zarr
from PIL import Image

from flows.prefect_.serve import DEPLOY, POOL, WORK_POOL
from stages.runs.report import HEADER
from tests.support.documentation import ROOT, blocks, pages
from tests.support.scenes import values_of, write_scene
from tests.support.timeouts import WITHIN_S
from tests.support.voc_tree import write_voc, write_voc2012

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in pages())
"""README and docs, one after the other."""

# What would take minutes is made smaller, and nothing else: fewer images and epochs.
SHORTER = {
    "make test": "make --dry-run test",
    "--run runs/mine": "--run runs/mine --epochs 2 --set train.reassign_every=1",
    "--run runs/v2": "--run runs/v2 --epochs 1 --set train.reassign_every=1",
    "--run runs/packed": "--run runs/packed --epochs 1 --set train.reassign_every=1",
    "--run runs/colour": "--run runs/colour --epochs 1 --set train.reassign_every=1",
    "--run runs/jitter": "--run runs/jitter --epochs 1 --set train.reassign_every=1",
    "--run runs/stained": "--run runs/stained --epochs 1 --set train.reassign_every=1",
    "--run runs/deep": "--run runs/deep --epochs 1 --set train.reassign_every=1",
    "--run runs/land": "--run runs/land --epochs 1 --set train.reassign_every=1",
    "--data ~/VOC": "--data ~/VOC --set iterations=2",
}
SHORTER_DEMO = {
    "dataset": {"subset": 500},
    "cluster": {"k": 20, "pca_dim": "auto"},
    "train": {"lr": 0.001},  # 8 steps an epoch are too few for the recipe's
}
VOC_SIZES = {"train": 8, "val": 8, "test": 16}
LOOK = "deepcluster look"
COPIED = ("flows", "stages", "deepcluster_core", "configs", "Makefile", "prefect.yaml")


# A command that stands on several pages is run once.
COMMANDS = list(dict.fromkeys(line for block in blocks(PAGES, "sh") for line in block.splitlines()))
EVERY_TIME = {
    "make demo",
    "make test",
    ". .venv/bin/activate",
    "deepcluster show runs/demo",
    "deepcluster show runs/demo --epoch 3 --cluster 17",
}
"""What a newcomer types first. The others are slow: minutes, most of them starts of processes."""
EXPECTED = {
    "make demo": r"^epoch",
    "make test": r"pytest",
    "deepcluster show runs/demo --epoch 3 --cluster 17": r"nearest first",
    "deepcluster look runs/demo": r"^Open +http://127\.0\.0\.1:",
    "deepcluster evaluate table2 runs/mine": r"^ours[^*]*\*[^*]*\*[^*]*\*[^*]*$",
    "deepcluster name runs/demo 3 'round threes'": r"^epoch 9, cluster 3: round threes$",
    "deepcluster name runs/demo --epoch 8": r"^cluster +share +name$|has no names",
    "deepcluster table runs/demo --out demo.parquet": r"^demo\.parquet: 500 images, epoch 9",
    "deepcluster check demo.parquet": r"^demo\.parquet: belongs to runs/demo, whose labels of",
    "deepcluster sort runs/demo --out sorted --per-cluster 20": r"^sorted: \d+ images of epoch 9",
    "deepcluster pick runs/demo --images 100 --out to-label.csv": r"^ +50 +cluster +drawn from",
    "deepcluster duplicates runs/demo --out copies.txt": r"^threshold 0\.9\d+: the cosine",
}
"""A pattern that a command prints; of the others it is enough that they succeed."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(source, folder / name)
    for path in (*ROOT.glob("requirements*.lock"), ROOT / "pyproject.toml"):
        shutil.copy(path, folder)
        os.utime(folder / path.name, (0, 0))  # older than what is installed
    (folder / ".venv").symlink_to(sys.prefix)
    demo = folder / "configs" / "demo.yaml"
    values = yaml.safe_load(demo.read_text())
    for section, changes in SHORTER_DEMO.items():
        values[section] |= changes
    demo.write_text(yaml.safe_dump(values))
    draw_pictures(folder / "home" / "pictures")
    for number, name in enumerate(("north.tif", "south.tif")):
        write_scene(folder / "home" / "scenes" / name, values_of(number, (4, 700, 720)))
    write_voc(folder / "home" / "VOC", sizes=VOC_SIZES)
    write_voc2012(folder / "home" / "VOC", sizes={"train": 8, "val": 8})
    return folder


def draw_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(150):
        ramp_HW = np.add.outer(np.arange(80) * (number % 3), np.arange(96) * (number % 5))
        pixels_HWC = np.stack([ramp_HW % 256] * 3, axis=-1) + draw.integers(0, 40, (80, 96, 3))
        Image.fromarray((pixels_HWC % 256).astype(np.uint8)).save(folder / f"{number}.jpg")


class Newcomer:
    """Follows README and docs from the first command to the last, each one once."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.printed: dict[str, str] = {}
        """What each command so far has printed."""
        self.failed: str | None = None
        self._serving = ExitStack()

    def follow(self, command: str) -> str:
        """Run a command, and before it those that it may need; return what it printed."""
        earlier = COMMANDS[: COMMANDS.index(command)]
        if command in EVERY_TIME:
            earlier = [one for one in earlier if one in EVERY_TIME]
        for one in [*earlier, command]:
            if self.failed is not None:
                pytest.skip(f"an earlier command failed: {self.failed}")
            if one not in self.printed:
                self.failed = one
                self.printed[one] = self._result_of(one)
                self.failed = None
        return self.printed[command]

    def _result_of(self, command: str) -> str:
        if command == "make serve":
            serve = ["make", "serve", f"ARGS=--port {free_port()}"]
            return self._serving.enter_context(running(serve, self.checkout, until="Worker"))
        if command.startswith(LOOK):  # it ends with Ctrl-C
            with running(["bash", "-ec", command], self.checkout, until="Ctrl-C") as printed:
                return printed
        return run(command, self.checkout)

    def leave(self) -> None:
        """Stop the server, if it was started."""
        self._serving.close()


@pytest.fixture(scope="module")
def newcomer(checkout: Path) -> Iterator[Newcomer]:
    follows = Newcomer(checkout)
    yield follows
    follows.leave()


def environment(checkout: Path) -> dict[str, str]:
    # Not the settings of Prefect, nor the options of a `make` that runs the tests.
    ours = ("PREFECT_", "MAKE", "MFLAGS", "ARGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "HOME": str(checkout / "home"),  # nobody's ~/.prefect
        "PATH": f"{checkout / '.venv' / 'bin'}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",  # on shared cores threads wait for each other
    }


def run(command: str, checkout: Path) -> str:
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def running(command: list[str], checkout: Path, *, until: str) -> Iterator[str]:
    """Run a server; give what it prints until a word of it says that the server is ready."""
    log = checkout / f"{command[0]}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=checkout,
            env=environment(checkout),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + WITHIN_S
        while until not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=WITHIN_S)


def free_port() -> int:
    """Return a port that nobody listens on; another `make test` may run beside this one."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.timeout(len(COMMANDS) * WITHIN_S)  # the first of the slow ones runs all before it
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(one, id=one, marks=[] if one in EVERY_TIME else [pytest.mark.slow])
        for one in COMMANDS
    ],
)
def test_readme__command_works(command: str, newcomer: Newcomer) -> None:
    printed = newcomer.follow(command)

    assert re.search(EXPECTED.get(command, ""), printed, re.MULTILINE)


def test_readme__commands_are_found() -> None:
    assert len(COMMANDS) > 30, "the pattern still finds them"
    assert EVERY_TIME | set(EXPECTED) <= set(COMMANDS)
    assert all(any(long in command for command in COMMANDS) for long in SHORTER)


@pytest.mark.slow
def test_readme__demo_made_again_is_cached(newcomer: Newcomer) -> None:
    newcomer.follow("make demo")

    assert "every stage Cached" in run("make demo", newcomer.checkout)


def test_readme__python_works(newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    newcomer.follow("make demo")
    monkeypatch.chdir(newcomer.checkout)

    found: dict[str, object] = {}
    for block in blocks(README, "python"):
        exec(block, found)  # noqa: S102  our own README

    labels, features = found["labels"], found["features"]
    assert isinstance(labels, pd.DataFrame)
    assert isinstance(features, zarr.Array)
    assert list(labels.columns) == ["image_id", "path", "cluster", "distance", "epoch"]
    assert len(labels) == 10 * features.shape[0]


def test_readme__shows_what_a_run_prints() -> None:
    assert HEADER in README


def test_docs__give_the_commands_that_serve_runs() -> None:
    for step in (WORK_POOL, DEPLOY):
        assert f"prefect --no-prompt {' '.join(step)}" in PAGES
    assert f"prefect worker start --pool {POOL}" in PAGES
