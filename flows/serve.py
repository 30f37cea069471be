"""A Prefect server on this machine, with a worker and our deployments, until Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import FrameType

from deepcluster_core.errors import ConfigError, DeepClusterError

HOST = "127.0.0.1"  # the server has no passwords: nobody else's machine shall reach it
POOL = "local"
STEPS = (("work-pool", "create", POOL, "--type", "process", "--overwrite"), ("deploy", "--all"))
START_S = 120.0
SETTINGS = Path("prefect.toml")
MARK = "# Written by `deepcluster serve`, and deleted when it stops.\n"


def serve(port: int) -> None:
    """Start server, pool, deployments and worker; return when stopped.

    Raises:
        ConfigError: there is no prefect.yaml here, or something else is in the way.
        DeepClusterError: the server does not start, or a step fails.
    """
    api = f"http://{HOST}:{port}/api"
    _check(api)
    environment = os.environ | {"PREFECT_API_URL": api}
    for number in (signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    started: list[subprocess.Popen[bytes]] = []

    def prefect(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", *arguments]
        # A session of its own, so that all of its processes can be stopped together.
        started.append(subprocess.Popen(command, env=environment, start_new_session=True))  # noqa: S603
        return started[-1]

    try:
        wait_until_up(api, prefect("server", "start", "--host", HOST, "--port", str(port)))
        for step in STEPS:
            if prefect("--no-prompt", *step).wait() != 0:
                raise DeepClusterError(f"prefect {' '.join(step)}: failed; see above.")
        # Prefect reads this file where it is called, so nobody has to export PREFECT_API_URL.
        SETTINGS.write_text(f'{MARK}[api]\nurl = "{api}"\n')
        worker = prefect("worker", "start", "--pool", POOL)
        _tell(port, api)
        worker.wait()
    except KeyboardInterrupt:
        print("\nstopping", flush=True)  # noqa: T201
    finally:
        for process in reversed(started):
            _stop(process)
        forget_dead_server()


def _check(api: str) -> None:
    forget_dead_server()
    if SETTINGS.exists():
        raise ConfigError(
            f"{SETTINGS}: would be overwritten; or another `deepcluster serve` runs here.\n"
            f"  Fix: stop that, or rename the file."
        )
    if not Path("prefect.yaml").exists():
        raise ConfigError("prefect.yaml: not here.\n  Fix: run this where the repository lies.")
    if _is_up(api):
        raise ConfigError(f"{api}: a server runs there already.\n  Fix: stop it, or use --port.")


def forget_dead_server() -> None:
    """Delete the settings that a killed `serve` left behind: nobody answers there any more."""
    if not SETTINGS.exists() or not (text := SETTINGS.read_text()).startswith(MARK):
        return
    if not _is_up(tomllib.loads(text)["api"]["url"]):
        SETTINGS.unlink()


def _tell(port: int, api: str) -> None:
    print(  # noqa: T201
        f"""
The UI:                  http://{HOST}:{port}
In another shell, here:  prefect deployment run deepcluster/epoch-loop --watch
From any other folder:   export PREFECT_API_URL={api}
Ctrl-C stops server and worker; a run goes on where it was when it is started again.
""",
        flush=True,
    )


def wait_until_up(api: str, server: subprocess.Popen[bytes], *, within_s: float = START_S) -> None:
    """Return once a server answers.

    Raises:
        DeepClusterError: its process ended, or it takes too long.
    """
    deadline = time.monotonic() + within_s
    while not _is_up(api):
        if server.poll() is not None or time.monotonic() > deadline:
            raise DeepClusterError(f"{api}: the Prefect server did not start; see above.")
        time.sleep(0.05)


def _is_up(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:  # noqa: S310  http, ours
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, gently at first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(timeout=10)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
