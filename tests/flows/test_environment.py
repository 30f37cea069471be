"""The settings that `environment` makes, one at a time."""

import logging
import os
import pwd
import resource
import tempfile
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from PIL import Image

from flows.engine import environment
from tests.support.pictures import left_right, pixels_of


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


def test_ignore_warnings_of_pillow__damaged_exif(settings: pytest.MonkeyPatch) -> None:
    """The block says that it has 65535 entries."""
    damaged = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\0\0" * 9

    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"EXIF|Skipping tag 274"):
            Image.open(BytesIO(left_right(damaged))).getexif().get(0x0112)
        environment.ignore_warnings_of_pillow()
        pixels_of(left_right(damaged))


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
