"""A server of Prefect for the flows of several tests, and a database for it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from flows.prefect_.embedded import EmbeddedServer
from tests.support.timeouts import WITHIN_S

UNUSED_SERVICES = (
    *("CANCELLATION_CLEANUP", "EVENT_PERSISTER", "FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS"),
    *("REPOSSESSOR", "SCHEDULER", "TRIGGERS"),
)
"""What Prefect's server does besides recording runs; a tenth of its time in the tests."""


@contextmanager
def running_server(database: Path, folder: Path) -> Iterator[str]:
    """Start a server for the flows that are called in the block; yield its URL.

    Args:
        database: a database of Prefect with all migrations; it is copied.
        folder: an empty folder for the server.
    """
    shutil.copy(database, folder / "prefect.db")
    here = folder / "here"
    here.mkdir()
    server = EmbeddedServer()
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_HOME", str(folder))
            for service in UNUSED_SERVICES:
                patch.setenv(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")
            patch.chdir(here)  # Prefect reads ./prefect.toml
            stack.enter_context(server.running())
        yield PREFECT_API_URL.value()
    server.end(WITHIN_S)


def make_prefect_database(home: Path) -> None:
    """Let a server create `home/prefect.db`, one file that can be copied.

    Its migrations take longer than the start of a server.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PREFECT_HOME", str(home))
        server = EmbeddedServer()
        try:
            server.begin()
            server.wait(WITHIN_S)
        finally:
            server.end(WITHIN_S)
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        database.execute("pragma wal_checkpoint(truncate)")  # nothing stays in the file beside it
