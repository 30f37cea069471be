"""Report unexpected errors: what the command prints, and where it writes the traceback."""

import errno
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from deepcluster_core.artifacts.remote.urls import without_secrets
from deepcluster_core.errors import ConfigError, DeepClusterError, first_line
from deepcluster_core.text import printable
from flows.engine.environment import is_writable, private_folder
from flows.prefect_.internals import SETTINGS_READERS

DEBUG = "DEEPCLUSTER_DEBUG"
LOG = "deepcluster-error.log"
NOTIFY_OPTION = "--notify"
"""The option whose value is never printed or logged."""
_WRITTEN_TO: list[Path] = []


def writes_to(run: str | Path | None) -> None:
    """Record the folder that a command writes to, or None; error logs are written there."""
    _WRITTEN_TO.clear()
    if run is not None:
        _WRITTEN_TO.append(Path(run).absolute())


def typed_command() -> list[str]:
    """Return the words of this command, with a placeholder for the URL of --notify.

    A URL can hold a password or token, which belongs neither on the terminal nor in a log.
    """
    words: list[str] = []
    for word in sys.argv:
        option, equals, _ = word.partition("=")
        if words and words[-1] == NOTIFY_OPTION:
            words.append("URL")
        elif equals and option == NOTIFY_OPTION:
            words.append(f"{option}=URL")
        else:
            words.append(without_secrets(word))
    return words


def debugging() -> bool:
    """Return whether tracebacks are printed, as --debug and DEEPCLUSTER_DEBUG request."""
    return os.environ.get(DEBUG, "").lower() not in ("", "0", "false", "no", "off")


def print_error(text: str) -> None:
    """Print to standard error, unless it was closed, for example together with the terminal."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def discard_output() -> None:
    """Send standard output to the null device, so that Python can end after a broken pipe."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def require_working_folder() -> None:
    """Check that the working folder can be used, because relative paths start there.

    Raises:
        ConfigError: the working folder was deleted, or cannot be entered.
    """
    try:
        here = Path.cwd()
        (here / "prefect.toml").exists()  # Prefect and we read this file
    except OSError as error:
        raise ConfigError(
            f"the working folder cannot be used ({error.strerror}).\n"
            f"  Fix: cd to a folder that exists and that you can enter."
        ) from error


def report_unexpected(error: Exception) -> None:
    """Print one line about an error and log the traceback; when debugging, print the traceback."""
    text = "".join(traceback.format_exception(error))
    line = f"deepcluster: {type(error).__name__}"
    if str(error).strip():
        line += f": {printable(first_line(error))}"
    if debugging():
        print_error(f"{text}{line}")
        return
    log = _write_log(text)
    if log is not None:
        print_error(f"{line} (unexpected; the traceback is in {printable(str(log))})")
    else:
        print_error(f"{text}{line} (unexpected; its traceback cannot be written to any folder)")


def _write_log(text: str) -> Path | None:
    """Append to the error log; return its path, or None if it cannot be written anywhere."""
    command = printable(shlex.join(typed_command()))
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    entry = f"{now}  {command}\n{text}\n"
    for folder in _log_folders():
        log = folder / LOG
        # A full disk, for example, leaves the next folder to try.
        with suppress(OSError):
            with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(entry)
            return log
    return None


def _log_folders() -> Iterator[Path]:
    """Yield the folders in which a log can be written, the preferred one first."""
    for folder in _WRITTEN_TO:
        if is_writable(folder):
            yield folder
    # RuntimeError: the user has no home folder.
    with suppress(OSError, RuntimeError):
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
        if state.is_absolute() and is_writable(Path.home()):
            folder = state / "deepcluster"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield folder
    folder = private_folder()
    if folder is not None:
        yield folder


def explained(error: Exception) -> DeepClusterError | None:
    """Return an error that explains how to fix the environment; None if that is not the cause."""
    text = str(error)
    if "No usable temporary directory" in text or "writable cache directory" in text:
        return ConfigError(_NO_TEMPORARY_FOLDER.format(tried=_tried()))
    cause = printable(first_line(error))
    number = error.errno if isinstance(error, OSError) else None
    # Libraries raise errors of their own, of which only the text is known.
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        return ConfigError(_TOO_MANY_FILES.format(cause=cause))
    lacks_memory = any(sign in text for sign in _NO_ADDRESS_SPACE)
    if isinstance(error, ImportError) and lacks_memory:
        return ConfigError(_NO_MEMORY.format(cause=cause))
    return _prefect_setting(error)


_NO_TEMPORARY_FOLDER = (
    "TMPDIR: no folder for temporary files can be written (tried {tried}).\n"
    "  Fix: set TMPDIR to a folder that you can write."
)
_TOO_MANY_FILES = (
    "too many files are open ({cause}).\n"
    "  Fix: allow more, `ulimit -n 4096` for example, and run the same command again."
)
_NO_ADDRESS_SPACE = ("failed to map segment", "Cannot allocate memory", "cannot allocate memory")
_NO_MEMORY = (
    "there is too little memory to load a library ({cause}).\n"
    "  Fix: allow more, `ulimit -v unlimited` for example, or use a machine with more memory."
)


def _tried() -> str:
    """Return the folders in which Python looks for one that is temporary."""
    folders: list[str] = []
    for name in ("TMPDIR", "TEMP", "TMP"):
        if os.environ.get(name):
            folders.append(os.environ[name])
    folders += ["/tmp", "/var/tmp", "/usr/tmp"]  # noqa: S108
    return ", ".join(map(printable, folders))


def _prefect_setting(error: Exception) -> DeepClusterError | None:
    """Return an error that names Prefect's invalid settings; None if that is not the cause."""
    frames = traceback.extract_tb(error.__traceback__)
    functions = {frame.name for frame in frames}
    if functions.isdisjoint(SETTINGS_READERS):
        return None
    # Without details, as for a file that is not TOML, give the text of the error.
    problems = list(_invalid(error)) or [printable(first_line(error))]
    listed = "; ".join(problems)
    return ConfigError(
        f"Prefect cannot read its settings: {listed}.\n"
        f"  Fix: correct or remove it: in the environment, in .env, prefect.toml or "
        f"pyproject.toml of this folder, or in {_profiles()}."
    )


def _invalid(error: Exception) -> Iterator[str]:
    """Yield each invalid setting and the reason: PREFECT_LOGGING_LEVEL = 'x': Input should be …."""
    errors = getattr(error, "errors", None)
    if errors is None:  # not an error of pydantic
        return
    for problem in errors():
        if problem.get("type") == "default_factory_not_called":  # follows from another one
            continue
        value = problem.get("input")
        place = problem["loc"]
        field = str(place[-1]) if place else ""
        name = _variable(field, value)
        yield printable(f"{name} = {value!r}: {problem['msg']}")


def _variable(field: str, value: object) -> str:
    """Return the environment variable that holds an invalid value, or the field if none does."""
    suffix = field.upper()
    if suffix.startswith("PREFECT_"):
        return suffix
    # Several variables can end with the field's name: find the one with the value.
    wanted = str(value).strip().lower()
    for name, text in os.environ.items():
        could_set_field = name.startswith("PREFECT_") and name.endswith(suffix)
        if could_set_field and text.strip().lower() == wanted:
            return name
    return field


def _profiles() -> str:
    home = os.environ.get("PREFECT_HOME", "~/.prefect")
    return printable(os.environ.get("PREFECT_PROFILES_PATH", f"{home}/profiles.toml"))
