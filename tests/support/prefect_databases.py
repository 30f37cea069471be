"""A database of Prefect's server with all migrations, which take longer than a server's start."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.prefect_.embedded import EmbeddedServer
from tests.support.timeouts import WITHIN_S


def make_prefect_database(home: Path) -> None:
    """Let a server create `home/prefect.db`, one file that can be copied."""
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
