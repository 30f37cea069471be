"""A Prefect server for one command: it starts beside the imports and ends with its records written.

Prefect starts such a server by itself, but only when a flow begins, after importing the server's
code into the flow's process too, and it forgets the last task runs.
`python -m flows.prefect_.embedded` is the process of the server; nothing else imports its code.
"""

import ctypes
import gc
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
from flows.prefect_.database import WAITING, lock_unless_current, usable_database
from flows.prefect_.internals import (
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
"""Set where the server ends with this process: the task runs that it has to record before."""
RECORD_S = 10.0  # at most; measured: 0.05 s after 41 tasks in two seconds
SEND_S = 5.0
NOTE = "note: "
"""Begins a line that the server's process prints for the person."""
LAST = 100
"""Task runs asked for at the end: they are recorded in their order, those before are long since."""
PR_SET_PDEATHSIG = 1  # prctl's option, linux/prctl.h


class EmbeddedServer:
    """The server of this command, where none is configured. Nothing runs before `begin`."""

    def __init__(self) -> None:
        """Start nothing."""
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._said: IO[bytes] | None = None
        self._stopping = False

    def begin(self) -> None:
        """Start the server's process, once, and do not wait for it."""
        if self._process is not None or os.environ.get("PREFECT_API_URL"):
            return
        with suppress(OSError):  # `wait` tries again, and explains it
            self._begin()

    def _begin(self) -> None:
        # What it says as it is stopped, in the midst of a request, is for nobody.
        self._said = tempfile.TemporaryFile()
        # The port is bound here and handed over, so that no other program can take it meanwhile.
        with socket.socket() as bound:
            bound.bind((HOST, 0))
            self._port = bound.getsockname()[1]
            words = (str(bound.fileno()), str(os.getpid()))
            # Not in our process group: Ctrl-C is for the flow, which then tells the server about
            # it.
            self._process = subprocess.Popen(  # noqa: S603  our own words
                [sys.executable, "-P", "-m", __name__, *words],
                start_new_session=True,
                stderr=self._said,
                pass_fds=[bound.fileno()],
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the flows in the block use this server, unless another one is configured.

        Raises:
            ServerError: no server can be used, or it has ended before the flow.
        """
        from prefect.settings import get_current_settings  # noqa: PLC0415

        settings = get_current_settings()
        if url := settings.api.url:
            drop_unusable_proxies(os.environ, proxies=is_loopback(url))
            with _configured(url):
                yield
            return
        if not settings.server.ephemeral.enabled:
            raise server_error(
                "no Prefect server",
                "none is configured, and starting one is switched off",
                "set PREFECT_SERVER_EPHEMERAL_ENABLED=true, or PREFECT_API_URL to a server",
                origin_of(EPHEMERAL),
            )
        drop_unusable_proxies(os.environ)
        with self._started(settings.server.ephemeral.startup_timeout_seconds):
            yield

    @contextmanager
    def _started(self, within_s: float) -> Iterator[None]:
        """Have the flows in the block use the server of this command."""
        from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: PLC0415

        api = self.wait(within_s)
        assert self._process is not None
        with temporary_settings({PREFECT_API_URL: api}) as settings:
            # Prefect's client asks a server that has gone for minutes, in case it comes back.
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
                if self._process.poll() is None:
                    _wait_until_recorded(task_runs[-LAST:])
                    send_all(SEND_S)  # Prefect would do so after the server's end
                    self._stopping = True
                    self._process.terminate()

    def wait(self, within_s: float) -> str:
        """Start the server if `begin` has not, wait until it answers, and return its URL.

        Raises:
            ServerError: it does not start.
        """
        try:
            if self._process is None:
                self._begin()
        except OSError as error:
            raise own_server_error(str(error), "", usable_database()[0]) from error
        assert self._process is not None
        api = f"http://{HOST}:{self._port}/api"
        try:
            try:
                wait_until_up(api, self._process, within_s=within_s)
            except WaitError:
                # The time that another process takes for the database does not count as its own.
                if self._process.poll() is not None or WAITING not in self._output():
                    raise
                wait_until_up(api, self._process, within_s=within_s)
        except WaitError as error:
            raise own_server_error(str(error), self._output(), usable_database()[0]) from error
        for line in self._output().splitlines():
            if line.startswith(NOTE):
                print(line, file=sys.stderr)  # noqa: T201
        return api

    def _watch(self, process: subprocess.Popen[bytes], settings: "Settings") -> None:
        """Have Prefect's client fail at once, and quietly, when the server ends before the flow.

        Args:
            process: of the server.
            settings: those that the client looks at before it tries again.
        """
        process.wait()
        if self._stopping:
            return
        settings.client.max_retries = 0
        # What its services cannot send any more they log, whole events among it. One message, which
        # is printed and not logged, stands for all of that. Handlers would be added again.
        logging.raiseExceptions = False
        logging.disable(logging.CRITICAL)
        silence_loggers()

    def _explain_if_ended(self, error: Exception) -> None:
        """Raise another error if the flow has failed because the server has ended."""
        if self._process is None or isinstance(error, DeepClusterError):
            return
        # A process that is being killed takes a moment to end.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
            raise ended_early("the Prefect server of this command") from error

    def _output(self) -> str:
        """Return what the server has printed."""
        if self._said is None:
            return ""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

    def end(self, within_s: float = 1) -> None:
        """Stop the process if there is one. Never hard: it may be writing Prefect's database.

        Args:
            within_s: wait this long for its end; it ends by itself in any case.
        """
        self._stopping = True
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=within_s)
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None


def collect_seldom() -> None:
    """Look for cyclic garbage less often: imports make none. The loop's take 2.2 s so, not 2.8."""
    gc.set_threshold(50_000, 20, 50)


def ended_early(server: str) -> ServerError:
    """Return the message for a server that is no longer there in the middle of a run."""
    return server_error(
        server,
        "it ended before the run did",
        "run the same command again; what is finished is not made again",
    )


def main(listening: int, parent: int) -> None:
    """Serve, unless a server is configured; end when told to, or when the parent is gone.

    Args:
        listening: file descriptor of the socket to listen on.
        parent: id of the process that has started this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent or not _is_wanted():
        return
    reach_loopback_directly()
    drop_unusable_proxies(os.environ)
    database, note = usable_database()
    if note:
        print(note, file=sys.stderr, flush=True)  # noqa: T201
        os.environ[DATABASE_URL.names[0]] = database.url
        read_settings_again()
    import uvicorn  # noqa: PLC0415

    class Server(uvicorn.Server):
        """Unlocks the database once it is ready, which is when the server has started."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            # Until here other processes import as well; only the migrations wait for each other.
            lock = lock_unless_current(database)
            await super().startup(sockets)
            if lock is not None:
                os.close(lock)

    app = server_app()
    server = Server(uvicorn.Config(app, host=HOST, log_level="error", lifespan="on"))
    server.run(sockets=[socket.socket(fileno=listening)])


def _is_wanted() -> bool:
    """Tell whether Prefect would start a server of its own: none is configured, and it may."""
    from prefect.settings import get_current_settings  # noqa: PLC0415

    settings = get_current_settings()
    return not settings.api.url and settings.server.ephemeral.enabled


@contextmanager
def _configured(url: str) -> Iterator[None]:
    """Have the flows in the block use the configured server; check it before and after a failure.

    Raises:
        ServerError: it cannot be used, or no longer.
    """
    from flows.prefect_.configured_server import (  # noqa: PLC0415
        check_configured_server,
        configured_server_error,
    )

    check_configured_server()
    try:
        yield
    except DeepClusterError:
        raise
    except Exception as error:
        try:
            check_configured_server()
        except ServerError:
            raise configured_server_error(
                url,
                "it has stopped answering before the run ended",
                "start it and run the same command again (what is finished is not made again)",
            ) from error
        raise


def _wait_until_recorded(task_runs: list[UUID]) -> None:
    """Wait until the server has the final states of task runs: its recorder is somewhat behind."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId  # noqa: PLC0415

    wanted = TaskRunFilter(id=TaskRunFilterId(any_=task_runs))
    deadline = time.monotonic() + RECORD_S
    with get_client(sync_client=True) as client:
        while task_runs and time.monotonic() < deadline:
            found = client.read_task_runs(task_run_filter=wanted)
            final = [run for run in found if run.state is not None and run.state.is_final()]
            if len(final) == len(task_runs):
                return
            time.sleep(0.05)


if __name__ == "__main__":
    collect_seldom()
    main(*map(int, sys.argv[1:]))
