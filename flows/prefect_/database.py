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
        found = SQLITE.fullmatch(self.url.split("?")[0])
        return Path(found["path"]) if found and ":memory:" not in self.url else None

    @property
    def shown(self) -> str:
        """The database as it is shown in messages, without its password."""
        return str(self.file) if self.file else without_password(self.url)


def configured_database() -> Database:
    """Return the database that Prefect's settings name."""
    from prefect.settings import (  # noqa: PLC0415
        PREFECT_API_DATABASE_CONNECTION_URL,
        PREFECT_HOME,
    )

    chosen = origin_of(DATABASE_URL) or origin_of(DATABASE_HOST)
    url = PREFECT_API_DATABASE_CONNECTION_URL.value() or ""
    return Database(str(url), chosen is None, Path(PREFECT_HOME.value()))


def usable_database() -> tuple[Database, str]:
    """Return the database that a server started here can use, and a note if it is a new one.

    Once a newer Prefect has upgraded the database in PREFECT_HOME, this version cannot open it any
    more. The artifacts of runs do not depend on the database, so a run need not stop for that
    reason: the records go to a second file beside it. A database that somebody has chosen is not
    replaced; then the server reports the error.
    """
    database = configured_database()
    file = database.file
    if file is None or not database.is_default or not is_newer(file):
        return database, ""
    from importlib.metadata import version  # noqa: PLC0415  slow to import, and rarely needed

    here = version("prefect")
    own = file.with_name(f"{file.stem}-{here}{file.suffix}")
    note = (
        f"note: {file} was upgraded by another version of Prefect than {here}, which is used here; "
        f"this command keeps its records in {own}"
    )
    return Database(URL.format(path=own), True, database.home), note


def is_newer(file: Path) -> bool:
    """Return whether a database has migrations that this version of Prefect does not know."""
    revisions = _revisions_of(file)
    return bool(revisions) and not revisions <= _known_revisions()[0]


def lock_unless_current(database: Database) -> int | None:
    """Wait until no other process creates or upgrades a database; lock it if it is out of date.

    Prefect has no such lock: if several servers start for the first time at once, some of them fail
    in the migrations.

    Returns:
        A file descriptor to keep open until the server has started, or None if the database is up
        to date. The kernel releases the lock of a process that has ended.
    """
    if _is_current(database):
        return None
    try:
        place = database.file or database.home / "database"
        lock = os.open(place.with_name(f"{place.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # the folder cannot be written; the server itself will report that
        return None
    try:
        if not lock_descriptor(lock, blocking=False):
            print(WAITING, database.shown, file=sys.stderr, flush=True)  # noqa: T201
            lock_descriptor(lock)
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    if _is_current(database):  # the process that was waited for has done it
        os.close(lock)
        return None
    return lock


def _is_current(database: Database) -> bool:
    """Return whether an SQLite database has all migrations of this Prefect."""
    return database.file is not None and _revisions_of(database.file) == _known_revisions()[1]


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
        for down, revision in REVISION.findall(path.read_text(encoding="utf-8")):
            (replaced if down else known).add(revision)
    return known, known - replaced
