"""The database of Prefect's own server: its version, and a lock while it is created or upgraded."""

import os
import re
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

from filelock import lock_descriptor

from flows.prefect_.internals import migration_files
from flows.prefect_.settings import DATABASE_HOST, DATABASE_URL, origin_of, without_password

SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]+)")
URL = "sqlite+aiosqlite:///{path}"
REVISION = re.compile(r"""^(down_)?revision\s*=\s*["']([^"']+)["']""", re.MULTILINE)
WAITING = "Waiting for another process that prepares the database"


@dataclass(frozen=True)
class Database:
    """The database that a server started here uses."""

    url: str
    is_default: bool
    """Whether this is Prefect's default, because nobody has chosen a database."""
    home: Path
    """The folder PREFECT_HOME."""

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database; None for any other database."""
        without_options = self.url.split("?")[0]
        found = SQLITE.fullmatch(without_options)
        if found is None or ":memory:" in self.url:
            return None
        return Path(found["path"])

    @property
    def shown(self) -> str:
        """The database as it is shown in messages, without its password."""
        if self.file is not None:
            return str(self.file)
        return without_password(self.url)


def configured_database() -> Database:
    """Return the database that Prefect's settings name."""
    from prefect.settings import (  # noqa: PLC0415
        PREFECT_API_DATABASE_CONNECTION_URL,
        PREFECT_HOME,
    )

    chosen = origin_of(DATABASE_URL) or origin_of(DATABASE_HOST)
    url = str(PREFECT_API_DATABASE_CONNECTION_URL.value() or "")
    home = Path(PREFECT_HOME.value())
    return Database(url, is_default=chosen is None, home=home)


def usable_database() -> tuple[Database, str]:
    """Return the database that a server started here can use, and a note if it is a new one.

    Once a newer Prefect has upgraded the database in PREFECT_HOME, this version cannot open it any
    more. The artifacts of runs do not depend on the database, so a run need not stop for that
    reason: the records go to a second file beside it. A database that somebody has chosen is not
    replaced; then the server reports the error.
    """
    database = configured_database()
    file = database.file
    if file is None or not database.is_default:
        return database, ""
    if not is_newer(file):
        return database, ""
    from importlib.metadata import version  # noqa: PLC0415  slow to import, and rarely needed

    # One file for each version of Prefect, so that no version finds the file of a newer one.
    here = version("prefect")
    own = file.with_name(f"{file.stem}-{here}{file.suffix}")
    note = (
        f"note: {file} was upgraded by a different version of Prefect than {here}, which is used "
        f"here; this command keeps its records in {own}"
    )
    own_database = Database(URL.format(path=own), is_default=True, home=database.home)
    return own_database, note


def is_newer(file: Path) -> bool:
    """Return whether a database has migrations that this version of Prefect does not know."""
    revisions = _revisions_of(file)
    if not revisions:  # do not read the migrations of Prefect
        return False
    known, _ = _known_revisions()
    return not revisions <= known


def lock_unless_current(database: Database) -> int | None:
    """Wait until no other process creates or upgrades a database; lock it if it is out of date.

    Prefect has no such lock: if several servers start for the first time at once, some of them fail
    in the migrations.

    Returns:
        A file descriptor to keep open until the server has started, or None if the database is up
        to date. The kernel releases the lock of a process that has ended.
    """
    if is_current(database):
        return None
    # Other processes find the lock beside the database, or in PREFECT_HOME if it is not a file.
    place = database.file or database.home / "database"
    lock_file = place.with_name(f"{place.name}.lock")
    try:
        lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # the folder cannot be written; the server itself will report that
        return None
    # Wait, and say so on standard error, where the process that started this one looks for it.
    try:
        if not lock_descriptor(lock, blocking=False):
            print(WAITING, database.shown, file=sys.stderr, flush=True)  # noqa: T201
            lock_descriptor(lock)
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    if is_current(database):  # the process that was waited for has done it
        os.close(lock)
        return None
    return lock


def is_current(database: Database) -> bool:
    """Return whether an SQLite database has all migrations of this Prefect."""
    if database.file is None:
        return False
    _, latest = _known_revisions()
    return _revisions_of(database.file) == latest


def _revisions_of(file: Path) -> set[str]:
    """Return the latest migrations that a database records; empty if it cannot be read."""
    import sqlite3  # noqa: PLC0415  not needed where a server is configured

    if not file.is_file():
        return set()
    with suppress(sqlite3.Error):
        url = f"file:{quote(str(file))}?mode=ro"
        with closing(sqlite3.connect(url, uri=True, timeout=1)) as opened:
            rows = opened.execute("select version_num from alembic_version").fetchall()
            return {str(row[0]) for row in rows}
    return set()


@cache
def _known_revisions() -> tuple[set[str], set[str]]:
    """Return all migrations that this version of Prefect knows, and the latest of them.

    They are read from its files, because importing alembic and Prefect's server takes seconds.
    """
    known: set[str] = set()
    replaced: set[str] = set()
    for path in migration_files():
        # Each file names its own revision and the one before it, `down_revision`.
        for down, revision in REVISION.findall(path.read_text(encoding="utf-8")):
            if down:
                replaced.add(revision)
            else:
                known.add(revision)
    return known, known - replaced
