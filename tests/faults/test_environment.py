"""What people's shells, containers and notebooks set, and closed or odd terminals.

The command is a real process where the point is what libraries do as they are imported; one process
then has many settings at once, and what it prints says which of them was not dealt with.
"""

import logging
import os
import pwd
import re
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from deepcluster_core.errors import first_line
from deepcluster_core.interrupts import held_back
from flows import cli, environment, failures
from flows.show import farewell, go_on, shell_path
from flows.terminal import python_text, shell_words
from stages.layout import RunFolder
from tests.faults import bad_input
from tests.faults.programs import PROGRAM

ROOT = Path(__file__).parents[2]
WITHIN_S = 600
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


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252:strict", None])
def test_help__replaces_what_cannot_be_encoded(encoding: str | None, tmp_path: Path) -> None:
    c_locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    settings = c_locale if encoding is None else {"PYTHONIOENCODING": encoding}
    settings |= {"TERMINAL_WIDTH": "abc"}

    helped = typed("--help", here=tmp_path, settings=settings)
    refused = typed("evaluate", "nmi", "first –", "second \udcff", here=tmp_path, settings=settings)

    assert (helped.returncode, helped.stderr) == (0, "")
    assert "--debug" in helped.stdout
    assert refused.returncode == 2
    bad_input.check_message(refused.stderr)


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


def test_run__home_and_notebook_settings_that_cannot_be_used(
    small_source: Path, tmp_path: Path
) -> None:
    """Results are made, and one line says where Prefect's records are."""
    (tmp_path / "file").touch()
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    recipe = bad_input.write_recipe(tmp_path / "recipe.yaml", small_source)

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


def test_show__invalid_setting_of_prefect_is_named(earlier_run: Path, tmp_path: Path) -> None:
    shown = typed(
        "show", earlier_run, here=tmp_path, settings={"PREFECT_LOGGING_LEVEL": "nonsense"}
    )

    assert shown.returncode == 2
    assert "PREFECT_LOGGING_LEVEL = 'NONSENSE': Input should be 'DEBUG', " in shown.stderr
    assert "Traceback" not in shown.stderr
    assert "\n  Fix: " in shown.stderr


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


@pytest.mark.parametrize("target", ["pipe", "/dev/full"])
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
    bad_input.check_message(refused.stderr)


@pytest.mark.parametrize("backend", [INLINE, "nonsense", "TkAgg"])
def test_pictures__whatever_matplotlib_is_told(backend: str, tmp_path: Path) -> None:
    """As in somebody's program that imports the core alone; matplotlib's settings stay theirs."""
    broken = backend == "nonsense"
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe" if broken else b"text.usetex: True\n")
    program = """
import os, sys
import pandas as pd
from deepcluster_core.evaluation.curves import draw_agreement
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


# Errors that reach the top


@pytest.fixture
def failing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[[Exception], tuple[int, str]]]:
    """Return what runs a command that raises an error; it returns exit code and message."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(failures.DEBUG, raising=False)
    monkeypatch.chdir(tmp_path)

    def fail(error: Exception) -> tuple[int, str]:
        def body() -> None:
            raise error

        monkeypatch.setattr(cli, "app", body)
        monkeypatch.setattr(cli, "discard_output", lambda: None)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        return caught.value.code, capsys.readouterr().err

    yield fail
    failures.writes_to(None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (AssertionError(), "AssertionError"),
        (KeyError("\x1b[31m"), r"KeyError: '\x1b[31m'"),
        (RuntimeError("\n\n"), "RuntimeError"),
    ],
)
def test_main__an_error_of_ours_is_one_line_and_a_log(
    error: Exception, said: str, failing: Callable[[Exception], tuple[int, str]], tmp_path: Path
) -> None:
    code, message = failing(error)

    log = tmp_path / "state" / "deepcluster" / failures.LOG
    assert code == 1
    assert message == f"deepcluster: {said} (not expected; the traceback is in {log})\n"
    assert "Traceback (most recent call last)" in log.read_text()
    assert type(error).__name__ in log.read_text()


def test_main__log_of_a_run_is_in_its_folder(
    failing: Callable[[Exception], tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    failures.writes_to("run")

    _, message = failing(ValueError("no"))
    failing(ValueError("again"))

    log = tmp_path / "run" / failures.LOG
    assert str(log) in message
    assert log.read_text().count("Traceback") == 2


def test_main__debugging_prints_the_traceback(
    failing: Callable[[Exception], tuple[int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(failures.DEBUG, "1")

    code, message = failing(ValueError("no"))

    assert code == 1
    assert message.startswith("Traceback (most recent call last)")
    assert message.endswith("\ndeepcluster: ValueError: no\n")
    assert not (tmp_path / "state").exists()


def test_main__traceback_is_printed_where_no_log_can_be_written(
    failing: Callable[[Exception], tuple[int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "state").touch()
    monkeypatch.setattr(failures, "private_folder", lambda: None)

    code, message = failing(ValueError("no"))

    assert code == 1
    assert message.startswith("Traceback")
    assert "no folder for a log of it can be written" in message.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "set TMPDIR"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (RuntimeError("unable to open shared memory: Too many open files (24)"), "ulimit -n"),
        (ImportError("x.so: failed to map segment from shared object"), "ulimit -v"),
    ],
)
def test_main__limits_are_explained(
    error: Exception, said: str, failing: Callable[[Exception], tuple[int, str]]
) -> None:
    code, message = failing(error)

    assert code == 2
    assert said in message
    bad_input.check_message(message)


def test_print_error__terminal_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(TextIOWrapper):
        def write(self, text: str, /) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone(BytesIO()))

    failures.print_error("nobody reads this")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n one\r\ntwo"), "one"),
        (ValueError("x" * 300), "x" * 200),
        (ValueError(), "ValueError"),
        (ValueError("\n"), "ValueError"),
    ],
)
def test_first_line__of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line


# A terminal that is closed


@pytest.fixture
def hung_up() -> Iterator[list[int]]:
    """Return what arrives where nothing in the program takes SIGHUP."""
    arrived: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: arrived.append(number))
    yield arrived
    signal.signal(signal.SIGHUP, before)


def test_held_back__closed_terminal_waits_for_the_step(hung_up: list[int]) -> None:
    with held_back() as held:
        signal.raise_signal(signal.SIGHUP)
        assert (held.signal, hung_up) == (signal.SIGHUP, [])

    assert hung_up == [signal.SIGHUP]


def test_main__closed_terminal_ends_as_a_signal_does(
    hung_up: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", lambda: signal.raise_signal(signal.SIGHUP))
    monkeypatch.setattr(cli, "SERVER", type("NoServer", (), {"end": staticmethod(lambda: None)}))

    with pytest.raises(SystemExit) as caught:
        cli.main()

    assert (caught.value.code, hung_up) == (129, [])
    assert "Go on from here with" in capsys.readouterr().err


def test_main__nohup_stays_in_force(hung_up: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    done: list[bool] = []

    def body() -> None:
        signal.raise_signal(signal.SIGHUP)
        done.append(True)

    monkeypatch.setattr(cli, "app", body)
    cli.main()

    assert done


# Printed commands


def test_printed_commands__can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / 'a "b" [1]')

    text = farewell(folder, epochs=1, seconds=1)

    assert """ show 'a "b" [1]'\n""" in text
    assert """ --run 'a "b" [1]' --epoch 0 """ in text
    assert r'pd.read_parquet("a \"b\" [1]/labels")' in text
    assert go_on(folder) == """deepcluster run 'a "b" [1]/config.yaml' --run 'a "b" [1]'"""
    assert shell_path(tmp_path / "-x") == "./-x"
    assert shell_words("deepcluster", tmp_path / "$x") == f"deepcluster '{tmp_path}/$x'"
    assert python_text("\\") == '"\\\\"'


# Settings, one at a time


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Return what sets variables; every change to the environment is undone."""
    before = dict(os.environ)
    for name in ("PREFECT_HOME", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(environment, "NOTES", [])
    environment.private_folder.cache_clear()
    yield monkeypatch
    environment.private_folder.cache_clear()
    monkeypatch.undo()
    for name in [name for name in os.environ if name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.mark.parametrize("text", ["", "0", "abc", "-1", "1.5", "9" * 20, "2,"])
def test_set_threads__what_is_no_number_is_dropped(text: str, settings: pytest.MonkeyPatch) -> None:
    settings.setenv("OMP_NUM_THREADS", text)
    settings.setenv("MKL_NUM_THREADS", "2")

    environment.set_threads()

    assert "OMP_NUM_THREADS" not in os.environ
    assert os.environ["MKL_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("text", "kept"), [("0", False), ("x", False), ("²", False), ("9" * 9, False), ("80", True)]
)
def test_set_size_of_terminal__what_is_no_size_is_dropped(
    text: str, kept: bool, settings: pytest.MonkeyPatch
) -> None:
    settings.setenv("COLUMNS", text)

    environment.set_size_of_terminal()

    assert ("COLUMNS" in os.environ) == kept


def test_ignore_strict_warnings__others_stay(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("PYTHONWARNINGS", "error,ignore::UserWarning,e::ImportWarning")

    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        environment.ignore_strict_warnings()
        remaining = {one[0] for one in warnings.filters}

    assert (os.environ["PYTHONWARNINGS"], "error" in remaining) == ("ignore::UserWarning", False)


@pytest.mark.parametrize(
    ("errors", "now"),
    [
        ("strict", "replace"),
        ("surrogateescape", "replace"),
        ("backslashreplace", "backslashreplace"),
    ],
)
def test_make_lenient__keeps_what_never_fails(errors: str, now: str) -> None:
    stream = TextIOWrapper(BytesIO(), encoding="ascii", errors=errors)

    environment.make_lenient(stream)

    assert (stream.errors, stream.encoding) == (now, "ascii")
    stream.write("– \udcff")
    stream.flush()


def test_raise_limit_of_open_files__up_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        environment.raise_limit_of_open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert hard == before[1]
    assert soft == (min(hard, environment.OPEN_FILES) if hard >= 0 else environment.OPEN_FILES)


def no_such_user(uid: int) -> pwd.struct_passwd:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


def test_set_home__user_without_any(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings.setattr(pwd, "getpwuid", no_such_user)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        settings.delenv(name, raising=False)

    environment.set_user_name()
    environment.set_home()
    environment.set_prefect_home()

    assert os.environ["HOME"] == str(tmp_path / f"deepcluster-{os.getuid()}")
    assert os.environ["LOGNAME"] == f"uid-{os.getuid()}"
    assert "PREFECT_HOME" not in os.environ, "the one in HOME will do"
    assert environment.NOTES == []


def test_set_prefect_home__usable_ones_stay(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.set_prefect_home()
    assert "PREFECT_HOME" not in os.environ

    settings.setenv("PREFECT_HOME", str(tmp_path / "new" / "folder"))
    environment.set_prefect_home()

    assert os.environ["PREFECT_HOME"] == str(tmp_path / "new" / "folder")
    assert (tmp_path / "new").is_dir()
    assert environment.NOTES == []


def file_in_place(home: Path) -> None:
    home.touch()


def not_writable(home: Path) -> None:
    home.mkdir()


def database_of_somebody_else(home: Path) -> None:
    home.mkdir()
    (home / "prefect.db").touch()


@pytest.mark.parametrize("make", [file_in_place, not_writable, database_of_somebody_else])
@pytest.mark.parametrize("chosen", [True, False])
def test_set_prefect_home__one_that_cannot_be_written(
    make: Callable[[Path], None], chosen: bool, settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / ".prefect"
    make(home)
    refused = home if make is not_writable else home / "prefect.db"
    access = os.access
    settings.setattr(os, "access", lambda path, mode: path != refused and access(path, mode))
    if chosen:
        settings.setenv("PREFECT_HOME", str(home))
    if home.is_dir():
        (home / "profiles.toml").touch()

    environment.set_prefect_home()

    other = tmp_path / f"deepcluster-{os.getuid()}"
    assert os.environ["PREFECT_HOME"] == str(other / "prefect")
    assert other.stat().st_mode & 0o777 == 0o700
    (note,) = environment.NOTES
    assert str(home) in note
    if home.is_dir():
        assert os.environ["PREFECT_PROFILES_PATH"] == str(home / "profiles.toml")


def test_private_folder__never_one_of_somebody_else(
    settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual = tmp_path / f"deepcluster-{os.getuid()}"
    usual.symlink_to(tmp_path)
    found = environment.private_folder()
    assert found is not None
    assert found != usual
    assert found.is_dir()

    environment.private_folder.cache_clear()
    settings.setattr(tempfile, "gettempdir", _no_temporary_folder)
    assert environment.private_folder() is None


def _no_temporary_folder() -> str:
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")


def test_prepare__nothing_to_write_at_all(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands that only read still work, so nothing is raised here."""
    settings.setattr(tempfile, "gettempdir", _no_temporary_folder)
    settings.setattr(environment, "is_writable", lambda _: False)
    settings.setenv("HOME", str(tmp_path / "absent"))

    for step in environment.STEPS:
        step()


def test_set_matplotlib__folder_that_cannot_be_written(
    settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.set_matplotlib()
    assert os.environ["MPLBACKEND"] == "agg"
    assert "MPLCONFIGDIR" not in os.environ

    (tmp_path / "file").touch()
    settings.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    environment.set_matplotlib()

    assert os.environ["MPLCONFIGDIR"] == f"{environment.private_folder()}/matplotlib"
    assert logging.getLogger("matplotlib").level == logging.ERROR
