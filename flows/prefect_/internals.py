"""All uses of Prefect outside its public interface: check these first for a new version.

They were tested with the versions that pyproject.toml allows. The functions import Prefect as late
as possible, because that takes seconds.
"""

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import Profile

SETTINGS_READERS = {"root_settings_context", "get_current_settings"}
"""Functions that read the settings while Prefect is imported. An error in them names a setting."""
MIGRATIONS = "server/database/_migrations/versions/sqlite"


def server_app() -> "FastAPI":
    """Return the application for a server that runs for one command."""
    from prefect.server.api.server import create_app  # noqa: PLC0415

    return create_app(ephemeral=True, final=True)


def import_engines() -> None:
    """Import what Prefect otherwise imports when the first flow and the first task begin."""
    for name in ("fastapi.encoders", "prefect.flow_engine", "prefect.task_engine"):
        importlib.import_module(name)


def send_all(timeout_s: float) -> None:
    """Send the events and log lines that are waiting in this process."""
    from prefect.events.worker import EventsWorker  # noqa: PLC0415
    from prefect.logging.handlers import APILogWorker  # noqa: PLC0415

    for worker in (EventsWorker, APILogWorker):
        # On a slow machine, a worker warns that it still has items to send, which is expected.
        logging.getLogger(worker.__name__).setLevel(logging.ERROR)
        worker.drain_all(timeout=timeout_s)


def read_settings_again() -> None:
    """Make Prefect read its settings from the environment again."""
    from prefect.context import refresh_global_settings_context  # noqa: PLC0415

    refresh_global_settings_context()


def active_profile() -> "Profile":
    """Return the profile of settings that is in use."""
    from prefect.context import get_settings_context  # noqa: PLC0415

    return get_settings_context().profile


def is_cloud(client: "SyncPrefectClient") -> bool:
    """Return whether a client talks to Prefect Cloud."""
    from prefect.client.base import ServerType  # noqa: PLC0415

    return client.server_type == ServerType.CLOUD


def migration_files() -> Iterator[Path]:
    """Yield the migration files of the server's SQLite database, without importing Prefect."""
    found = importlib.util.find_spec("prefect")
    assert found is not None
    for package in found.submodule_search_locations or ():
        yield from (Path(package) / MIGRATIONS).glob("*.py")


def silence_loggers() -> None:
    """Turn off the loggers that avoid the lock of `logging.disable`, and so ignore it."""
    for name, logger in logging.Logger.manager.loggerDict.items():
        is_internal = name.startswith("prefect._internal")
        # Names without a logger of their own have a placeholder.
        if is_internal and isinstance(logger, logging.Logger):
            logger.disabled = True
