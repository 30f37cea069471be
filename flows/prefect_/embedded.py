"""A Prefect server for one command, started during the imports and ended once all is recorded.

Prefect can start such a server by itself. But it does so only when a flow begins, imports the
server's code into the process of the flow too, and loses the last task runs.
`python -m flows.prefect_.embedded` runs the process of the server; only it imports the server's
code.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Thread
from typing import IO, TYPE_CHECKING
from uuid import UUID

from deepcluster_core.errors import DeepClusterError
from deepcluster_core.memory import collect_seldom
from flows.prefect_.database import WAITING, is_current, lock_unless_current, usable_database
from flows.prefect_.internals import (
    import_engines,
    read_settings_again,
    send_all,
    server_app,
    silence_loggers,
)
from flows.prefect_.loopback import drop_unusable_proxies, is_loopback, reach_loopback_directly
from flows.prefect_.serve import HOST, WaitError, wait_until_up
from flows.prefect_.server_errors import ServerError, own_server_error, server_error
from flows.prefect_.settings import DATABASE_URL, EPHEMERAL, origin_of

if TYPE_CHECKING:
    from prefect.settings import Settings

TASK_RUNS: ContextVar[list[UUID] | None] = ContextVar("TASK_RUNS", default=None)
"""The task runs that the server has to record before it ends; None if it outlives this process."""
RECORD_S = 10.0
"""Longest wait for the records, in seconds. Measured: 0.05 s after 41 tasks in two seconds."""
SEND_S = 5.0
"""Longest wait for events and log lines to be sent, in seconds."""
NOTE = "note: "
"""Beginning of a line that the server's process prints, and that is shown to the person."""
LAST = 100
"""Number of task runs to wait for at the end. They are recorded in order, so earlier ones are
recorded by then."""
MIGRATE_ON_START = "PREFECT_SERVER_DATABASE_MIGRATE_ON_START"
PR_SET_PDEATHSIG = 1
"""The option of prctl that sends a signal when the parent ends, from linux/prctl.h."""


class EmbeddedServer:
    """The server of this command, used if none is configured. It does not run before `begin`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._stderr: IO[bytes] | None = None
        self._stopping = False

    def begin(self) -> None:
        """Start the server's process once, without waiting for it."""
        if self._process is not None or os.environ.get("PREFECT_API_URL"):
            return
        with suppress(OSError):  # `wait` tries again, and explains the error
            self._begin()

    def _begin(self) -> None:
        # A file, because errors that the server prints while it is stopped are of no interest.
        self._stderr = tempfile.TemporaryFile()
        # The port is bound here and handed over, so that no other program can take it meanwhile.
        with socket.socket() as bound:
            bound.bind((HOST, 0))
            _, self._port = bound.getsockname()
            listening = bound.fileno()
            arguments = (str(listening), str(os.getpid()))
            # A process group of its own: Ctrl-C must reach only the flow, which then reports to the
            # server that it was stopped.
            self._process = subprocess.Popen(  # noqa: S603  our own arguments
                [sys.executable, "-P", "-m", __name__, *arguments],
                start_new_session=True,
                stderr=self._stderr,
                pass_fds=[listening],
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make the flows in the block use this server, unless another one is configured.

        Raises:
            ServerError: no server can be used, or the server ended before the flow.
        """
        from prefect.settings import get_current_settings  # noqa: PLC0415

        settings = get_current_settings()
        url = settings.api.url
        if url:
            # A server on this machine is reached without a proxy; others may need one.
            drop_unusable_proxies(os.environ, proxies=is_loopback(url))
            with _configured(url):
                yield
            return
        ephemeral = settings.server.ephemeral
        if not ephemeral.enabled:
            raise server_error(
                "no Prefect server",
                "none is configured, and starting one is switched off",
                "set PREFECT_SERVER_EPHEMERAL_ENABLED=true, or PREFECT_API_URL to a server",
                origin_of(EPHEMERAL),
            )
        drop_unusable_proxies(os.environ)
        with self._started(ephemeral.startup_timeout_seconds):
            yield

    @contextmanager
    def _started(self, within_s: float) -> Iterator[None]:
        """Make the flows in the block use the server of this command."""
        from prefect.settings import (  # noqa: PLC0415
            PREFECT_API_URL,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            temporary_settings,
        )

        api = self.wait(within_s)
        assert self._process is not None
        # Nobody waits for the heartbeats of a flow whose server ends with it, and Prefect ends the
        # thread that sends them at full seconds only.
        with temporary_settings(
            {PREFECT_API_URL: api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        ) as settings:
            # If the server ends, Prefect's client would retry for minutes, in case it returns.
            Thread(target=self._watch, args=(self._process, settings), daemon=True).start()
            task_runs: list[UUID] = []
            token = TASK_RUNS.set(task_runs)
            try:
                yield
            except Exception as error:
                self._explain_if_ended(error)
                raise
            finally:
                TASK_RUNS.reset(token)
                still_runs = self._process.poll() is None
                if still_runs:
                    _wait_until_recorded(task_runs[-LAST:])
                    send_all(SEND_S)  # Prefect itself would send only after the server has ended
                    self._stopping = True
                    self._process.terminate()

    def wait(self, within_s: float) -> str:
        """Start the server if `begin` has not, wait until it answers, and return its URL.

        Raises:
            ServerError: the server does not start.
        """
        try:
            if self._process is None:
                self._begin()
        except OSError as error:
            database, _ = usable_database()
            raise own_server_error(str(error), "", database) from error
        assert self._process is not None
        import_engines()  # takes 0.3 s in which the server starts
        api = f"http://{HOST}:{self._port}/api"
        try:
            self._wait_until_up(api, self._process, within_s)
        except WaitError as error:
            database, _ = usable_database()
            raise own_server_error(str(error), self._output(), database) from error
        for line in self._output().splitlines():
            if line.startswith(NOTE):
                print(line, file=sys.stderr)  # noqa: T201
        return api

    def _wait_until_up(self, api: str, process: subprocess.Popen[bytes], within_s: float) -> None:
        """Return once the server answers; wait longer if another one prepares the database."""
        try:
            wait_until_up(api, process, within_s=within_s)
        except WaitError:
            still_runs = process.poll() is None
            waits_for_database = WAITING in self._output()
            if not (still_runs and waits_for_database):
                raise
            wait_until_up(api, process, within_s=within_s)

    def _watch(self, process: subprocess.Popen[bytes], settings: "Settings") -> None:
        """Make Prefect's client fail at once, and quietly, when the server ends before the flow.

        Args:
            process: process of the server.
            settings: settings that the client reads before it tries again.
        """
        process.wait()
        if self._stopping:
            return
        settings.client.max_retries = 0
        # Prefect's services log everything that they cannot send any more, even whole events. One
        # error, which is printed and not logged, replaces all of that. Logging is disabled as a
        # whole, because handlers that were removed would be added again.
        logging.raiseExceptions = False
        logging.disable(logging.CRITICAL)
        silence_loggers()

    def _explain_if_ended(self, error: Exception) -> None:
        """Raise a ServerError if the flow has failed because the server has ended."""
        if self._process is None or isinstance(error, DeepClusterError):
            return
        # A process that is being killed takes a moment to end.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
            raise ended_early("the Prefect server of this command") from error

    def _output(self) -> str:
        """Return what the server has printed."""
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def end(self, within_s: float = 1) -> None:
        """Stop the process if there is one. It is never killed, as it may be writing the database.

        Args:
            within_s: longest wait for its end, in seconds; it ends by itself in any case.
        """
        self._stopping = True
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=within_s)
            self._process = None
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None


def ended_early(server: str) -> ServerError:
    """Return the error for a server that has ended in the middle of a run."""
    return server_error(
        server,
        "it ended before the run did",
        "run the same command again; what is finished is not made again",
    )


def main(listening: int, parent: int) -> None:
    """Run the server, unless another one is configured, until a signal or the parent's end.

    Args:
        listening: file descriptor of the socket to listen on.
        parent: id of the process that has started this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent_has_ended = os.getppid() != parent  # before the signal was asked for
    if parent_has_ended or not _is_wanted():
        return
    reach_loopback_directly()
    drop_unusable_proxies(os.environ)
    database, note = usable_database()
    if note:
        print(note, file=sys.stderr, flush=True)  # noqa: T201
        os.environ[DATABASE_URL.names[0]] = database.url
    if is_current(database):
        # Prefect would import alembic and all migrations, 0.4 s, to find that there is none to do.
        os.environ[MIGRATE_ON_START] = "false"
    read_settings_again()
    import uvicorn  # noqa: PLC0415

    class Server(uvicorn.Server):
        """A server that unlocks the database once it has started, and so prepared the database."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            # Servers of several processes import in parallel; only their migrations are locked.
            lock = lock_unless_current(database)
            await super().startup(sockets)
            if lock is not None:
                os.close(lock)

    config = uvicorn.Config(server_app(), host=HOST, log_level="error", lifespan="on")
    Server(config).run(sockets=[socket.socket(fileno=listening)])


def _is_wanted() -> bool:
    """Return whether a server is needed: none is configured, and starting one is allowed."""
    from prefect.settings import get_current_settings  # noqa: PLC0415

    settings = get_current_settings()
    return not settings.api.url and settings.server.ephemeral.enabled


@contextmanager
def _configured(url: str) -> Iterator[None]:
    """Make the flows in the block use the configured server.

    The server is checked first, and once more if a flow fails.

    Raises:
        ServerError: the server cannot be used, or stopped answering during a flow.
    """
    from flows.prefect_.configured_server import (  # noqa: PLC0415
        check_configured_server,
        configured_server_error,
    )

    check_configured_server()
    try:
        yield
    except DeepClusterError:  # not an error of the server
        raise
    except Exception as error:
        try:
            check_configured_server()
        except ServerError:
            reason = "it has stopped answering before the run ended"
            fix = "start it and run the same command again (what is finished is not made again)"
            raise configured_server_error(url, reason, fix) from error
        raise


def _wait_until_recorded(task_runs: list[UUID]) -> None:
    """Wait until the server has recorded the final states of task runs, which takes a moment."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId  # noqa: PLC0415

    wanted = TaskRunFilter(id=TaskRunFilterId(any_=task_runs))
    deadline = time.monotonic() + RECORD_S
    with get_client(sync_client=True) as client:
        while task_runs and time.monotonic() < deadline:
            num_ended = 0
            for task_run in client.read_task_runs(task_run_filter=wanted):
                if task_run.state is not None and task_run.state.is_final():
                    num_ended += 1
            if num_ended == len(task_runs):
                return
            time.sleep(0.05)


if __name__ == "__main__":
    collect_seldom()
    _, listening_text, parent_text = sys.argv
    main(int(listening_text), int(parent_text))
