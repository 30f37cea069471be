"""A Prefect server for one command: it starts beside the imports and ends with its records written.

Prefect starts such a server by itself, but only when a flow begins, after importing the server's
code into the flow's process too, and it forgets the last task runs. `python -m flows.embedded` is
the process of the server; nothing else imports its code.
"""

import ctypes
import gc
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
from typing import IO
from uuid import UUID

from deepcluster_core.errors import DeepClusterError
from flows.serve import HOST, wait_until_up

TASK_RUNS: ContextVar[list[UUID] | None] = ContextVar("TASK_RUNS", default=None)
"""Set where the server ends with this process: the task runs that it has to record before."""
RECORD_S = 10.0  # at most; measured: 0.05 s after 41 tasks in two seconds
SHOWN = 2000  # characters of what a server has said that does not start
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

    def begin(self) -> None:
        """Start the server's process, once, and do not wait for it."""
        if self._process is not None or os.environ.get("PREFECT_API_URL"):
            return
        self._port = _free_port()
        command = [sys.executable, "-P", "-m", __name__, str(self._port), str(os.getpid())]
        # Not in our process group: Ctrl-C is for the flow, which then tells the server about it.
        # What it says as it is stopped, in the midst of a request, is for nobody.
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(  # noqa: S603  our own words
            command, start_new_session=True, stderr=self._said
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the flows in the block use this server, unless another one is configured.

        Raises:
            DeepClusterError: it does not start.
        """
        from prefect.settings import (  # noqa: PLC0415
            PREFECT_API_URL,
            get_current_settings,
            temporary_settings,
        )

        if not _is_wanted():
            yield
            return
        self.begin()
        assert self._process is not None
        api = f"http://{HOST}:{self._port}/api"
        within_s = get_current_settings().server.ephemeral.startup_timeout_seconds
        try:
            wait_until_up(api, self._process, within_s=within_s)
        except DeepClusterError as error:
            raise DeepClusterError(f"{error}\n{self._last_words()}") from error
        with temporary_settings({PREFECT_API_URL: api}):
            task_runs: list[UUID] = []
            token = TASK_RUNS.set(task_runs)
            try:
                yield
            finally:
                TASK_RUNS.reset(token)
                if self._process.poll() is None:
                    _wait_until_recorded(task_runs[-LAST:])
                    _drain()
                    self._process.terminate()

    def _last_words(self) -> str:
        """Return the end of what the server has said."""
        if self._said is None:
            return ""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-SHOWN:]

    def end(self) -> None:
        """Stop the process if there is one. Never hard: it may be writing Prefect's database."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None


def collect_seldom() -> None:
    """Look for cyclic garbage less often: imports make none. The loop's take 2.2 s so, not 2.8."""
    gc.set_threshold(50_000, 20, 50)


def main(port: int, parent: int) -> None:
    """Serve, unless a server is configured; end when told to, or when the parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent or not _is_wanted():
        return
    import uvicorn  # noqa: PLC0415
    from prefect.server.api.server import create_app  # noqa: PLC0415

    app = create_app(ephemeral=True, final=True)
    uvicorn.run(app, host=HOST, port=port, log_level="error", lifespan="on")


def _is_wanted() -> bool:
    """Tell whether Prefect would start a server of its own: none is configured, and it may."""
    from prefect.settings import get_current_settings  # noqa: PLC0415

    settings = get_current_settings()
    return settings.api.url is None and settings.server.ephemeral.enabled


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        return bound.getsockname()[1]


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


def _drain() -> None:
    """Send what Prefect has still to tell the server; it would do so after the server's end."""
    from prefect.events.worker import EventsWorker  # noqa: PLC0415
    from prefect.logging.handlers import APILogWorker  # noqa: PLC0415

    EventsWorker.drain_all(timeout=5)
    APILogWorker.drain_all(timeout=5)


if __name__ == "__main__":
    collect_seldom()
    main(*map(int, sys.argv[1:]))
