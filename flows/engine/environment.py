"""The environment of this process, made fit before any large library is imported.

`prepare` runs first in the command, and when a flow opens a run. Each function in STEPS makes one
thing fit. Values that a person has set stay, except those with which a library would fail. Nothing
is printed or raised here, since not every command needs what is missing: `NOTES` are printed by
the commands that start Prefect.
"""

import importlib.util
import logging
import os
import pwd
import re
import resource
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
"""One line each: what is kept in another place than usual, and the setting that changes it."""

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # OpenMP's threads spin 30 times as long before they sleep, and so take the cores from the
    # threads that load images and from other programs. Measured on two cores, an epoch of the
    # demo's training: 7.1 s with the default and 7.5 s with this value on a quiet machine, 52 s
    # and 17 s beside one busy program.
    "GOMP_SPINCOUNT": "10000",
    # Without a server of their own people get the embedded one; 20 s to start are not always
    # enough.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
}
"""Set where the person has not set them."""

NEVER_RAISES = ("replace", "backslashreplace", "ignore", "namereplace", "xmlcharrefreplace")
OPEN_FILES = 4096
"""Enough for any number of workers and shards."""
WIDEST = 10_000
"""Columns of a terminal; rich pads some lines to the full width."""
SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
THREADS = re.compile(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*")
THREAD_COUNTS = (
    *("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "VECLIB_MAXIMUM_THREADS"),
)
PREFECT_FILES = ("prefect.db", "prefect.db-wal", "prefect.db-shm", "storage")


def prepare() -> None:
    """Make everything fit. Calling it again does no harm."""
    for step in STEPS:
        step()


# Input, output and imports


def open_closed_streams() -> None:
    """Open standard streams that are closed (`>&-`).

    Otherwise the next file that is opened, a database for example, takes the number of standard
    output, and what any library prints is written into it.
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
    """Have a text stream replace what it cannot encode, if it is of Python's own kind."""
    if getattr(stream, "errors", None) not in NEVER_RAISES and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]


def import_own_packages() -> None:
    """Import our other packages from beside this one.

    A folder `stages` in some folder of PYTHONPATH would come first.
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
    """Drop `error` from PYTHONWARNINGS: libraries warn of each other's old functions at import."""
    given = [one for one in os.environ.get("PYTHONWARNINGS", "").split(",") if one]
    kept = [one for one in given if not "error".startswith(one.partition(":")[0].strip() or "-")]
    if len(kept) == len(given):
        return
    os.environ["PYTHONWARNINGS"] = ",".join(kept)
    others = [one for one in warnings.filters if one[0] != "error"]
    warnings.resetwarnings()
    warnings.filters.extend(others)  # pyright: ignore[reportAttributeAccessIssue]  a list


def set_size_of_terminal() -> None:
    """Drop sizes that are no numbers, or too small or large to print anything with them."""
    for name in SIZES:
        if name in os.environ:
            text = os.environ[name]
            size = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
            if not 0 < size <= WIDEST:
                del os.environ[name]


# Limits


def raise_limit_of_open_files() -> None:
    """Use as many open files as the system administrator allows; shells often set fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def set_threads() -> None:
    """Drop numbers of threads that are invalid, of which libraries complain on the terminal.

    Where a container may use only a part of its cores' time, set a number that fits.
    """
    from deepcluster_core.limits import limit_threads  # noqa: PLC0415  see `import_own_packages`

    for name in THREAD_COUNTS:
        if name in os.environ and not THREADS.fullmatch(os.environ[name].strip()):
            del os.environ[name]
    limit_threads()


# Folders and the user


def set_user_name() -> None:
    """Name the user where the system has no name for the id, as containers do.

    `getpass.getuser` raises KeyError there, and torch calls it when a network is first trained.
    """
    if any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def set_temporary_folder() -> None:
    """Set TMPDIR for libraries that do not look for another folder if it cannot be used."""
    with suppress(FileNotFoundError):  # none at all; whatever needs one raises this again
        found = tempfile.gettempdir()
        if os.environ.get("TMPDIR", found) != found:
            os.environ["TMPDIR"] = found


def set_home() -> None:
    """Set HOME where neither it nor the list of users names one: Prefect asks for it at import."""
    try:
        Path.home()
    except RuntimeError:
        # Without any folder to write, commands that only read still work.
        os.environ["HOME"] = str(private_folder() or "/")


def set_prefect_home() -> None:
    """Choose another PREFECT_HOME where the usual folder cannot be written.

    The results of a run are in its own folder; Prefect only keeps its records here.
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
    with suppress(OSError):  # settings that can be read still count
        if (wanted / "profiles.toml").is_file():
            os.environ.setdefault("PREFECT_PROFILES_PATH", str(wanted / "profiles.toml"))
    NOTES.append(
        f"{wanted} cannot be written, so Prefect keeps its records in {home}; "
        f"set PREFECT_HOME to choose another folder."
    )


def _holds_prefect(folder: Path, *, may_make_parents: bool) -> bool:
    """Return whether Prefect can use a folder as its home. Makes missing parents, if it may."""
    try:
        if may_make_parents and not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)  # Prefect makes the folder alone
        if not folder.exists():
            return folder.parent.is_dir() and os.access(folder.parent, os.W_OK | os.X_OK)
        files = [folder / name for name in PREFECT_FILES]
        return is_writable(folder) and all(
            os.access(path, os.R_OK | os.W_OK) for path in files if path.exists()
        )
    except OSError:
        return False


def is_writable(folder: Path) -> bool:
    """Return whether a folder exists and files can be made in it."""
    try:
        return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError:  # a folder above may not be searched
        return False


@cache
def private_folder() -> Path | None:
    """Return a folder in place of the home folder: this user's alone, in the temporary folder.

    Returns:
        None where there is no temporary folder either.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"deepcluster-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        others_may_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not others_may_write:
            return folder
        return Path(tempfile.mkdtemp(prefix="deepcluster-"))  # the name is somebody else's
    except OSError:
        return None


# Libraries


def set_defaults() -> None:
    """Set what libraries would choose otherwise."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def set_matplotlib() -> None:
    """Have matplotlib draw to files only, with a folder that it can write, and in silence.

    Notebooks export a backend of theirs (MPLBACKEND) that is not installed here, with which the
    import fails.
    """
    os.environ["MPLBACKEND"] = "agg"
    # It warns of settings that it does not know, and of a folder or font list that it has to make.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if all(is_usable(folder) for folder in _matplotlib_folders()):
        return
    if (folder := private_folder()) is not None:
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


def _matplotlib_folders() -> list[Path]:
    """Return where matplotlib keeps its settings and its list of fonts."""
    if chosen := os.environ.get("MPLCONFIGDIR"):
        return [Path(chosen)]
    bases = {"XDG_CONFIG_HOME": "~/.config", "XDG_CACHE_HOME": "~/.cache"}
    return [
        Path(os.environ.get(name) or usual).expanduser() / "matplotlib"
        for name, usual in bases.items()
    ]


def is_usable(folder: Path) -> bool:
    """Return whether files can be made in a folder, which is made first if it does not exist."""
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
"""In this order: folders need a temporary folder, and Prefect and matplotlib need HOME."""
