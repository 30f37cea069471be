"""Errors that reach the top, a terminal that is closed, and commands that are printed."""

import signal
import sys
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from deepcluster_core.errors import first_line
from deepcluster_core.interrupts import held_back
from deepcluster_core.text import python_text, shell_words
from flows.cli import failures
from flows.cli import main as cli
from flows.show.farewell import farewell
from flows.show.terminal import go_on, shell_path
from stages.runs.folder import RunFolder
from tests.support import refusals


@pytest.fixture
def failing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[[Exception], tuple[int, str]]]:
    """Return what runs a command that raises an error; it returns exit code and message."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(failures.DEBUG, raising=False)
    monkeypatch.chdir(tmp_path)
    failures.writes_to(None)

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
    assert message == f"deepcluster: {said} (unexpected; the traceback is in {log})\n"
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
    assert "its traceback cannot be written to any folder" in message.splitlines()[-1]


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
    refusals.check_message(message)


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

    text = farewell(folder, epochs=1, features=folder.artifact("features", 0), seconds=1)

    assert """ show 'a "b" [1]'\n""" in text
    assert """ --run 'a "b" [1]' --epoch 0 """ in text
    assert r'pd.read_parquet("a \"b\" [1]/labels")' in text
    assert go_on(folder) == """deepcluster run 'a "b" [1]/config.yaml' --run 'a "b" [1]'"""
    assert shell_path(tmp_path / "-x") == "./-x"
    assert shell_words("deepcluster", tmp_path / "$x") == f"deepcluster '{tmp_path}/$x'"
    assert python_text("\\") == '"\\\\"'
