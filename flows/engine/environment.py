"""Prepare the environment of this process before any large library is imported.

The command calls `prepare` first, and a flow calls it when it opens a run. Each function in STEPS
corrects one part of the environment. Values that a person has set are kept, unless a library would
fail with them. Nothing is printed or raised here, because not every command needs what is missing;
the commands that start Prefect print `NOTES`.
"""

import importlib.util
import logging
import os
import re
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TextIO

from flows.prefect_.loopback import reach_loopback_directly

NOTES: list[str] = []
"""Notes of one line: what is kept in an unusual place, and which setting changes that."""

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # By default, idle threads of OpenMP spin 30 times as long before they sleep, which takes the
    # cores from the threads that load images and from other programs. An epoch of the demo's
    # training on two cores took 7.1 s with the default and 7.5 s with this value on an idle
    # machine, but 52 s and 17 s beside one busy program.
    "GOMP_SPINCOUNT": "10000",
    # People without a server of their own get the embedded one. Prefect's limit of 20 s is not
    # always enough for it to start.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
}
"""Variables that are set unless the person has set them."""

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""Names and modes of the standard streams, in the order of their file descriptors."""
NEVER_RAISES = ("replace", "backslashreplace", "ignore", "namereplace", "xmlcharrefreplace")
OPEN_FILES = 4096
"""Limit of open files: enough for any number of workers and shards."""
WIDEST = 10_000
"""Largest accepted size of a terminal, in columns; rich pads some lines to the full width."""
SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
SHORT_NUMBER = re.compile(r"[0-9]{1,9}")
THREADS = re.compile(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*")
THREAD_COUNTS = (
    *("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "VECLIB_MAXIMUM_THREADS"),
)
PREFECT_FILES = ("prefect.db", "prefect.db-wal", "prefect.db-shm", "storage")


def prepare() -> None:
    """Run all steps. Calling this again does no harm."""
    for step in STEPS:
        step()


# Input, output and imports


def open_closed_streams() -> None:
    """Open standard streams that are closed (`>&-`).

    If they stayed closed, the next file to be opened, such as a database, would get the file
    descriptor of standard output, and whatever a library prints would be written into that file.
    """
    for number, (name, mode) in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            _open_null_device(number)
        # Python found the stream closed when it started, and has no object for it.
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)


def _open_null_device(number: int) -> None:
    """Open the null device as a file descriptor, which subprocesses inherit."""
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def replace_unencodable_characters() -> None:
    """Print a replacement for characters that the terminal or log file cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        make_lenient(stream)


def make_lenient(stream: TextIO) -> None:
    """Make a text stream replace characters it cannot encode, if it can be reconfigured."""
    raises = getattr(stream, "errors", None) not in NEVER_RAISES
    if raises and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]


def import_own_packages() -> None:
    """Import our other packages from the folder that this package is in.

    A folder named `stages` somewhere on PYTHONPATH would be found first by a normal import.
    """
    root = Path(__file__).parents[2]
    for name in ("deepcluster_core", "stages"):
        path = root / name / "__init__.py"
        if name in sys.modules or not path.is_file():
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def ignore_strict_warnings() -> None:
    """Drop `error` from PYTHONWARNINGS: some libraries emit deprecation warnings at import."""
    entries = os.environ.get("PYTHONWARNINGS", "").split(",")
    given = [entry for entry in entries if entry]
    kept = [entry for entry in given if not _makes_errors(entry)]
    if len(kept) == len(given):
        return
    os.environ["PYTHONWARNINGS"] = ",".join(kept)
    # Python has already turned the variable into filters, so they are removed too.
    kept_filters = [entry for entry in warnings.filters if entry[0] != "error"]
    warnings.resetwarnings()
    warnings.filters.extend(kept_filters)  # pyright: ignore[reportAttributeAccessIssue]  a list


def _makes_errors(entry: str) -> bool:
    """Return whether the action of an entry of PYTHONWARNINGS is `error`, or short for it."""
    action = entry.partition(":")[0].strip()
    if not action:  # stands for the default action
        return False
    return "error".startswith(action)


def set_size_of_terminal() -> None:
    """Drop variables whose value is not a number, or not a usable size of a terminal."""
    for name in SIZES:
        if name in os.environ and not _is_size(os.environ[name]):
            del os.environ[name]


def _is_size(text: str) -> bool:
    """Return whether a text is a usable number of columns or lines."""
    # `int` also accepts signs and spaces, and fails for thousands of digits.
    is_short_number = SHORT_NUMBER.fullmatch(text) is not None
    return is_short_number and 0 < int(text) <= WIDEST


def ignore_warnings_of_pillow() -> None:
    """Ignore what Pillow warns of, such as a damaged EXIF block; a bad image is reported by us."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


# Limits


def raise_limit_of_open_files() -> None:
    """Raise the limit of open files if the administrator allows it; shells often set less."""
    try:
        import resource  # noqa: PLC0415  not on Windows, which has no such limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(OPEN_FILES, hard)
    # RLIM_INFINITY is negative, so it must not be compared as a number.
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def set_threads() -> None:
    """Drop invalid numbers of threads, about which libraries complain on the terminal.

    If this container can use only a part of its cores' time, set a number of threads that fits.
    """
    from deepcluster_core.limits import limit_threads  # noqa: PLC0415  see `import_own_packages`

    for name in THREAD_COUNTS:
        text = os.environ.get(name)
        if text is not None and not THREADS.fullmatch(text.strip()):
            del os.environ[name]
    limit_threads()


# Folders and the user


def set_user_name() -> None:
    """Set a user name if the system has none for the user's id, as in some containers.

    Without a name `getpass.getuser` raises KeyError, and torch calls it when it first trains a
    network.
    """
    if any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return
    try:
        import pwd  # noqa: PLC0415
    except ImportError:  # on Windows, where USERNAME is always set
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def set_temporary_folder() -> None:
    """Replace a TMPDIR that cannot be used, for libraries that do not look for another folder."""
    with suppress(FileNotFoundError):  # no folder can be used; whatever needs one raises this again
        found = tempfile.gettempdir()
        if os.environ.get("TMPDIR", found) != found:
            os.environ["TMPDIR"] = found


def set_home() -> None:
    """Set HOME if neither the environment nor the list of users has one; Prefect needs it."""
    try:
        Path.home()
    except RuntimeError:
        # Commands that only read work even without a writable folder.
        os.environ["HOME"] = str(private_folder() or "/")


def set_prefect_home() -> None:
    """Choose a different PREFECT_HOME if the usual folder cannot be written.

    Only Prefect's records are kept there; the results of a run are in the run's own folder.
    """
    chosen = os.environ.get("PREFECT_HOME")
    wanted = Path(chosen or "~/.prefect").expanduser()
    if _holds_prefect(wanted, may_make_parents=chosen is not None):
        return
    folder = private_folder()
    if folder is None:
        return
    home = folder / "prefect"
    if home == wanted:
        return
    os.environ["PREFECT_HOME"] = str(home)
    # A profile in the usual folder still applies if it can be read.
    profiles = wanted / "profiles.toml"
    with suppress(OSError):
        if profiles.is_file():
            os.environ.setdefault("PREFECT_PROFILES_PATH", str(profiles))
    NOTES.append(
        f"{wanted} cannot be written, so Prefect keeps its records in {home}; "
        f"set PREFECT_HOME to choose another folder."
    )


def _holds_prefect(folder: Path, *, may_make_parents: bool) -> bool:
    """Return whether Prefect can use a folder as its home. Can create missing parents."""
    try:
        if may_make_parents and not folder.exists():
            # Prefect creates the folder itself, but not its parents.
            folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            parent = folder.parent
            return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
        if not is_writable(folder):
            return False
        # The files in a folder that several users share can belong to another one.
        for name in PREFECT_FILES:
            path = folder / name
            if path.exists() and not os.access(path, os.R_OK | os.W_OK):
                return False
    except OSError:
        return False
    return True


def is_writable(folder: Path) -> bool:
    """Return whether a folder exists and files can be created in it."""
    needed_access = os.R_OK | os.W_OK | os.X_OK
    try:
        return folder.is_dir() and os.access(folder, needed_access)
    except OSError:  # a parent folder cannot be searched
        return False


@cache
def private_folder() -> Path | None:
    """Return a folder to use in place of the home folder: private, in the temporary folder.

    Returns:
        The folder; None if there is no temporary folder either.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"deepcluster-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # `lstat`, because a link that somebody else made could lead anywhere.
        if _is_private(folder.lstat()):
            return folder
        return Path(tempfile.mkdtemp(prefix="deepcluster-"))  # somebody else has taken the name
    except OSError:
        return None


def _is_private(status: os.stat_result) -> bool:
    """Return whether only this user can write to a folder."""
    is_folder = stat.S_ISDIR(status.st_mode)
    is_own = status.st_uid == os.getuid()
    others_may_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return is_folder and is_own and not others_may_write


# Libraries


def set_defaults() -> None:
    """Set defaults that differ from those of the libraries."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def set_matplotlib() -> None:
    """Make matplotlib draw to files only, use a folder it can write, and log errors only.

    Notebooks set MPLBACKEND to a backend of their own, with which the import fails if that backend
    is not installed here.
    """
    os.environ["MPLBACKEND"] = "agg"
    # It warns about unknown settings, and about a folder or a font list that it has to create.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if all(is_usable(folder) for folder in _matplotlib_folders()):
        return
    folder = private_folder()
    if folder is not None:
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


def _matplotlib_folders() -> list[Path]:
    """Return the folders in which matplotlib keeps its settings and its list of fonts."""
    if chosen := os.environ.get("MPLCONFIGDIR"):
        return [Path(chosen)]
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    cache_folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [Path(base).expanduser() / "matplotlib" for base in (config, cache_folder)]


def is_usable(folder: Path) -> bool:
    """Return whether files can be created in a folder. Creates the folder if it does not exist."""
    # A missing folder can be created if the nearest parent that exists can be written.
    for path in (folder, *folder.parents):
        try:
            exists = path.exists()
        except OSError:
            return False
        if exists:
            return is_writable(path)
    return False


STEPS: tuple[Callable[[], None], ...] = (
    open_closed_streams,
    replace_unencodable_characters,
    import_own_packages,
    ignore_strict_warnings,
    ignore_warnings_of_pillow,
    set_size_of_terminal,
    raise_limit_of_open_files,
    set_threads,
    set_user_name,
    set_temporary_folder,
    set_home,
    set_defaults,
    set_prefect_home,
    set_matplotlib,
    reach_loopback_directly,
)
"""The steps in order: folders need a temporary folder, and Prefect and matplotlib need HOME."""
