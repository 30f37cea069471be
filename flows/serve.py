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
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import FrameType

from deepcluster_core.errors import ConfigError, DeepClusterError

HOST = "127.0.0.1"  # the server has no passwords: nobody else's machine shall reach it
OPEN = """
warning: --host {host}: other machines can reach this server, which has no passwords. Who reaches it
can start runs here, and code with them, and reads what the server knows of yours. Let a firewall
choose who may, or leave --host out and come through ssh -L {port}:{local}:{port}
"""
POOL = "local"
STEPS = (("work-pool", "create", POOL, "--type", "process", "--overwrite"), ("deploy", "--all"))
START_S = 120.0
STOP_S = 45.0  # a worker gives its runs 30 s, in which they save their training
SETTINGS = Path("prefect.toml")
Address = IPv4Address | IPv6Address
MARK = "# Written by `deepcluster serve`, and deleted when it stops.\n"


def serve(port: int, host: str = HOST) -> None:
    """Start server, pool, deployments and worker; return when stopped.

    Args:
        port: that the server listens on.
        host: address of this machine that it listens on; a warning tells of one that others reach.

    Raises:
        ConfigError: there is no prefect.yaml here, or something else is in the way.
        DeepClusterError: the server does not start, or a step fails.
    """
    address = address_of(host)
    url = url_of(address, port)
    api = f"{url}/api"
    _check(api)
    # prefect.yaml has runs work in $PWD, which after `make -C` or from a program is another folder.
    environment = os.environ | {"PREFECT_API_URL": api, "PWD": str(Path.cwd())}
    if not address.is_loopback:
        print(OPEN.format(host=address, port=port, local=HOST), file=sys.stderr, flush=True)  # noqa: T201
        # Browsers elsewhere ask where they have the page from.
        environment.setdefault("PREFECT_UI_API_URL", "/api")
    _stop_when_told()
    started: list[subprocess.Popen[bytes]] = []

    def prefect(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", *arguments]
        # A session of its own, so that all of its processes can be stopped together.
        started.append(subprocess.Popen(command, env=environment, start_new_session=True))  # noqa: S603
        return started[-1]

    try:
        wait_until_up(api, prefect("server", "start", "--host", str(address), "--port", str(port)))
        for step in STEPS:
            if prefect("--no-prompt", *step).wait() != 0:
                raise DeepClusterError(f"prefect {' '.join(step)}: failed; see above.")
        # Prefect reads this file where it is called, so nobody has to export PREFECT_API_URL.
        SETTINGS.write_text(f'{MARK}[api]\nurl = "{api}"\n')
        worker = prefect("worker", "start", "--pool", POOL)
        _tell(url, api)
        worker.wait()
    except KeyboardInterrupt:
        print("\nstopping", flush=True)  # noqa: T201
    finally:
        for process in reversed(started):
            _stop(process)
        forget_dead_server()


def address_of(host: str) -> Address:
    """Return an address to listen on. Names other than localhost are not looked up.

    Raises:
        ConfigError: it is none.
    """
    try:
        return ip_address(HOST if host == "localhost" else host)
    except ValueError:
        raise ConfigError(
            f"--host {host}: is no IP address.\n"
            f"  Fix: leave it out, or give one of this machine's; 0.0.0.0 stands for all of them."
        ) from None


def url_of(address: Address, port: int) -> str:
    """Return where this machine itself reaches a server that listens on an address."""
    if address.is_unspecified:  # on all of its kind
        address = ip_address(HOST if address.version == 4 else "::1")
    return f"http://{address}:{port}" if address.version == 4 else f"http://[{address}]:{port}"


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


def _tell(url: str, api: str) -> None:
    print(  # noqa: T201
        f"""
The UI:                  {url}
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
            process.wait(timeout=STOP_S)


def _stop_when_told() -> None:
    """End on these signals, but for those that are ignored here, as under nohup.

    What is ignored would be so in the processes started from here too, and a worker that ignores
    SIGINT never stops; what has a handler, even one that does nothing, is not.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        ignored = signal.getsignal(number) is signal.SIG_IGN
        signal.signal(number, _ignore if ignored else _interrupt)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
