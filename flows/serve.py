"""A Prefect server on this machine, with a worker and our deployments, until Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

from deepcluster_core.errors import ConfigError, DeepClusterError

HOST = "127.0.0.1"  # the server has no passwords: nobody else's machine shall reach it
POOL = "local"
START_S = 120.0


def serve(port: int) -> None:
    """Start server, pool, deployments and worker; return when stopped.

    Raises:
        ConfigError: there is no prefect.yaml here.
        DeepClusterError: the server does not start, or a step fails.
    """
    if not Path("prefect.yaml").exists():
        raise ConfigError("prefect.yaml: not here.\n  Fix: run this where the repository lies.")
    api = f"http://{HOST}:{port}/api"
    if _is_up(api):
        raise ConfigError(f"{api}: a server runs there already.\n  Fix: stop it, or use --port.")
    environment = os.environ | {"PREFECT_API_URL": api}
    signal.signal(signal.SIGTERM, _interrupt)
    server = _prefect("server", "start", "--host", HOST, "--port", str(port), env=environment)
    worker = None
    try:
        _wait_until_up(api, server)
        for step in (
            ("work-pool", "create", POOL, "--type", "process", "--overwrite"),
            ("deploy", "--all"),
        ):
            if _prefect("--no-prompt", *step, env=environment).wait() != 0:
                raise DeepClusterError(f"prefect {' '.join(step)}: failed; see above.")
        worker = _prefect("worker", "start", "--pool", POOL, env=environment)
        _tell(port, api)
        worker.wait()
    except KeyboardInterrupt:
        print("\nstopping", flush=True)  # noqa: T201
    finally:
        for process in (worker, server):
            if process is not None:
                _stop(process)


def _prefect(*arguments: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "prefect", *arguments], env=env)  # noqa: S603  our own words


def _tell(port: int, api: str) -> None:
    print(  # noqa: T201
        f"""
The UI:            http://{HOST}:{port}
In another shell:  export PREFECT_API_URL={api}
                   prefect deployment run deepcluster/epoch-loop --watch
Ctrl-C stops server and worker; runs go on where they were when started again.
""",
        flush=True,
    )


def _wait_until_up(api: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not _is_up(api):
        if server.poll() is not None or time.monotonic() > deadline:
            raise DeepClusterError(f"{api}: the Prefect server did not start; see above.")
        time.sleep(0.3)


def _is_up(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:  # noqa: S310  http, ours
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
