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

NEVER_RAISES = ("replace", "backslashreplace", "ignore", "namereplace", "xmlcharrefreplace")
OPEN_FILES = 4096
"""Limit of open files: enough for any number of workers and shards."""
WIDEST = 10_000
"""Largest accepted size of a terminal, in columns; rich pads some lines to the full width."""
SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
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
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))


def replace_unencodable_characters() -> None:
    """Print a replacement for characters that the terminal or log file cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        make_lenient(stream)


def make_lenient(stream: TextIO) -> None:
    """Make a text stream replace characters it cannot encode, if it can be reconfigured."""
    if getattr(stream, "errors", None) not in NEVER_RAISES and hasattr(stream, "reconfigure"):
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
        if spec is not None and spec.loader is not None:
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)


def ignore_strict_warnings() -> None:
    """Drop `error` from PYTHONWARNINGS: some libraries emit deprecation warnings at import."""
    given = [entry for entry in os.environ.get("PYTHONWARNINGS", "").split(",") if entry]
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
    return "error".startswith(action or "-")  # an empty action means the default one


def set_size_of_terminal() -> None:
    """Drop variables whose value is not a number, or is no usable size of a terminal."""
    for name in SIZES:
        if name in os.environ:
            text = os.environ[name]
            size = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
            if not 0 < size <= WIDEST:
                del os.environ[name]


def ignore_warnings_of_pillow() -> None:
    """Ignore what Pillow warns of, such as a damaged EXIF block; a bad image is reported by us."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


# Limits


def raise_limit_of_open_files() -> None:
    """Raise the limit of open files as far as the administrator allows; shells often set less."""
    try:
        import resource  # noqa: PLC0415  not on Windows, which has no such limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def set_threads() -> None:
    """Drop invalid numbers of threads, about which libraries complain on the terminal.

    If this container can use only a part of its cores' time, set a number of threads that fits.
    """
    from deepcluster_core.limits import limit_threads  # noqa: PLC0415  see `import_own_packages`

    for name in THREAD_COUNTS:
        if name in os.environ and not THREADS.fullmatch(os.environ[name].strip()):
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
        import pwd  # noqa: PLC0415  not on Windows, where USERNAME is always set

        pwd.getpwuid(os.getuid())
    except (ImportError, KeyError):
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
    """Choose another PREFECT_HOME if the usual folder cannot be written.

    Only Prefect's records are kept there; the results of a run are in the run's own folder.
    """
    chosen = os.environ.get("PREFECT_HOME")
    wanted = Path(chosen or "~/.prefect").expanduser()
    if _holds_prefect(wanted, may_make_parents=chosen is not None):
        return
    if (folder := private_folder()) is None:
        return
    home = folder / "prefect"
    if home == wanted:
        return
    os.environ["PREFECT_HOME"] = str(home)
    with suppress(OSError):  # a profile that can be read still applies
        if (wanted / "profiles.toml").is_file():
            os.environ.setdefault("PREFECT_PROFILES_PATH", str(wanted / "profiles.toml"))
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
            return folder.parent.is_dir() and os.access(folder.parent, os.W_OK | os.X_OK)
        files = [folder / name for name in PREFECT_FILES]
        return is_writable(folder) and all(
            os.access(path, os.R_OK | os.W_OK) for path in files if path.exists()
        )
    except OSError:
        return False


def is_writable(folder: Path) -> bool:
    """Return whether a folder exists and files can be created in it."""
    try:
        return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)
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
        status = folder.lstat()
        is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        others_may_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_own and not others_may_write:
            return folder
        return Path(tempfile.mkdtemp(prefix="deepcluster-"))  # somebody else has taken the name
    except OSError:
        return None


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
    if (folder := private_folder()) is not None:
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


def _matplotlib_folders() -> list[Path]:
    """Return the folders in which matplotlib keeps its settings and its list of fonts."""
    if chosen := os.environ.get("MPLCONFIGDIR"):
        return [Path(chosen)]
    bases = {"XDG_CONFIG_HOME": "~/.config", "XDG_CACHE_HOME": "~/.cache"}
    return [
        Path(os.environ.get(name) or usual).expanduser() / "matplotlib"
        for name, usual in bases.items()
    ]


def is_usable(folder: Path) -> bool:
    """Return whether files can be created in a folder. Creates the folder if it does not exist."""
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    except (OSError, StopIteration):
        return False
    return is_writable(existing)


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
