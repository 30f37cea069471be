"""What people's shells, containers and notebooks set, and closed or odd terminals.

The command is a real process where the point is what libraries do as they are imported; one process
then has many settings at once, and what it prints says which of them was not dealt with.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from deepcluster_core.text import shell_words
from tests.support import refusals
from tests.support.program import PROGRAM
from tests.support.recipes import write_small_recipe
from tests.support.timeouts import WITHIN_S

ROOT = Path(__file__).parents[2]
INLINE = "module://matplotlib_inline.backend_inline"
NO_SUCH_USER = """
import pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""


def typed(
    *arguments: str | Path, here: Path, settings: Mapping[str, str | None]
) -> "subprocess.CompletedProcess[str]":
    """Run the command as a process in a folder, with these variables; None removes one."""
    changed: dict[str, str | None] = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=here,
        env={name: text for name, text in changed.items() if text is not None},
        encoding="utf-8",
        errors="replace",
        capture_output=True,
        timeout=WITHIN_S,
        check=False,
    )


# The command


def test_show__works_in_a_hostile_environment(earlier_run: Path, tmp_path: Path) -> None:
    for name in ("random.py", "string.py", "stages.py", "typer.py"):
        (tmp_path / name).write_text("raise SystemExit(f'{__file__} was imported')")
    (tmp_path / "other" / "stages").mkdir(parents=True)
    (tmp_path / "other" / "stages" / "__init__.py").write_text("raise SystemExit('not ours')")

    shown = typed(
        *("show", earlier_run),
        here=tmp_path,
        settings={
            "PYTHONPATH": os.pathsep.join(["", str(tmp_path / "other"), str(ROOT)]),
            "PYTHONIOENCODING": "ascii",
            "PYTHONWARNINGS": "error",
            "COLUMNS": "0",
            "LINES": "²",
            "TERM": "dumb",
            "OMP_NUM_THREADS": "abc",
            "MPLBACKEND": "nonsense",
            "TMPDIR": "/nonexistent",
            "TZ": "Nonsense/Zone",
            "CUDA_VISIBLE_DEVICES": "abc",
        },
    )

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "smallnet, k = 4" in shown.stdout
    assert re.search(r"0 +\d\.\d{3} +\? +0\.", shown.stdout), "no NMI before, written as a dash"


@pytest.mark.parametrize(
    "encoding",
    [
        pytest.param("latin-1", marks=pytest.mark.slow),
        pytest.param("cp1252:strict", marks=pytest.mark.slow),
        None,
    ],
)
def test_help__replaces_what_cannot_be_encoded(encoding: str | None, tmp_path: Path) -> None:
    c_locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    settings = c_locale if encoding is None else {"PYTHONIOENCODING": encoding}
    settings |= {"TERMINAL_WIDTH": "abc"}

    helped = typed("--help", here=tmp_path, settings=settings)
    refused = typed("evaluate", "nmi", "first –", "second \udcff", here=tmp_path, settings=settings)

    assert (helped.returncode, helped.stderr) == (0, "")
    assert "--debug" in helped.stdout
    assert refused.returncode == 2
    refusals.check_message(refused.stderr)


def test_show__user_without_home_and_name(earlier_run: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_SUCH_USER)

    shown = typed(
        *("show", earlier_run),
        here=tmp_path,
        settings=dict.fromkeys(("HOME", "USER", "LOGNAME", "PREFECT_HOME"))
        | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "TMPDIR": str(tmp_path)},
    )

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "smallnet, k = 4" in shown.stdout


@pytest.mark.slow
def test_run__home_and_notebook_settings_that_cannot_be_used(
    small_source: Path, tmp_path: Path
) -> None:
    """Results are made, and one line says where Prefect's records are."""
    (tmp_path / "file").touch()
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    recipe = write_small_recipe(tmp_path / "recipe.yaml", small_source)

    made = typed(
        *("run", recipe, "--run", "run [1]"),
        here=tmp_path,
        settings={
            "HOME": str(tmp_path / "file"),
            "PREFECT_HOME": str(tmp_path / "file" / "prefect"),
            "TMPDIR": str(tmp_path),
            "MPLBACKEND": INLINE,
            "MPLCONFIGDIR": str(tmp_path / "file"),
            "PYTHONIOENCODING": "latin-1",
        },
    )

    assert made.returncode == 0, made.stderr
    (note,) = made.stderr.splitlines()
    assert note.startswith(f"deepcluster: {tmp_path}/file/prefect cannot be written")
    assert f"{tmp_path}/deepcluster-{os.getuid()}/prefect" in note
    assert "PREFECT_HOME" in note
    assert (tmp_path / "run [1]" / "overview.png").exists()
    assert "show 'run [1]' --epoch 0 --cluster 0\n" in made.stdout


@pytest.mark.slow
def test_stage__invalid_setting_of_prefect_is_named(earlier_run: Path, tmp_path: Path) -> None:
    settings = {"PREFECT_LOGGING_LEVEL": "nonsense"}
    ended = typed("stage", "index", "--run", earlier_run, here=tmp_path, settings=settings)

    assert ended.returncode == 2
    assert "PREFECT_LOGGING_LEVEL = 'NONSENSE': Input should be 'DEBUG', " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "\n  Fix: " in ended.stderr
    shown = typed("show", earlier_run, here=tmp_path, settings=settings)
    assert shown.returncode == 0, "looking at a run needs no Prefect"


def test_show__closed_standard_output(earlier_run: Path, tmp_path: Path) -> None:
    command = f"{shell_words(PROGRAM, 'show', earlier_run)} >&-"

    shown = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stderr=subprocess.PIPE,
        timeout=WITHIN_S,
        check=False,
    )

    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize("target", ["pipe", pytest.param("/dev/full", marks=pytest.mark.slow)])
def test_help__output_that_cannot_be_written(target: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    output = write if target == "pipe" else os.open(target, os.O_WRONLY)

    ended = subprocess.run(
        [PROGRAM, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path)},
        text=True,
        stdout=output,
        stderr=subprocess.PIPE,
        timeout=WITHIN_S,
        check=False,
    )
    os.close(write)

    assert ended.returncode in (1, 141)
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert len(ended.stderr.splitlines()) == (target != "pipe")


def test_show__working_folder_that_was_deleted(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f"cd gone && rmdir ../gone && exec {shell_words(PROGRAM, 'show', 'run')}"

    refused = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "working folder" in refused.stderr
    refusals.check_message(refused.stderr)


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(INLINE, marks=pytest.mark.slow),
        "nonsense",
        pytest.param("TkAgg", marks=pytest.mark.slow),
    ],
)
def test_pictures__whatever_matplotlib_is_told(backend: str, tmp_path: Path) -> None:
    """As in somebody's program that imports the core alone; matplotlib's settings stay theirs."""
    broken = backend == "nonsense"
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe" if broken else b"text.usetex: True\n")
    program = """
import os, sys
import pandas as pd
from deepcluster_core.report.agreement import draw_agreement
with open("picture.png", "wb") as file:
    draw_agreement(pd.DataFrame({"epoch": [0], "nmi_labels": [0.5], "nmi_previous": [None]}), file)
import matplotlib
print("matplotlib.pyplot" in sys.modules, matplotlib.rcParams["text.usetex"], os.getcwd())
"""
    drawn = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": backend},
        text=True,
        capture_output=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.split() == ["False", str(backend == "TkAgg"), str(tmp_path)]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
