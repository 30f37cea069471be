"""Run a Prefect server on this machine, with a worker and our deployments, until Ctrl-C."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import FrameType

from deepcluster_core.config_files import DEPLOYMENTS
from deepcluster_core.errors import ConfigError
from deepcluster_core.interrupts import SIGNALS
from deepcluster_core.memory import KEEP_FREED_MEMORY
from flows.prefect_.database import Database, lock_unless_current, usable_database
from flows.prefect_.loopback import (
    drop_unusable_proxies,
    is_gone,
    is_proxy,
    is_up,
    reach_loopback_directly,
)
from flows.prefect_.server_errors import OTHER_HOME, ServerError, server_error
from flows.prefect_.settings import DATABASE_URL

HOST = "127.0.0.1"
"""Default address. The server has no passwords, so no other machine should reach it."""
OPEN = """
warning: --host {host}: other machines can reach this server, which has no passwords. Everyone who
can reach it can start runs, and with them any code, on this machine, and can read the records of
your runs. Restrict access with a firewall, or leave --host out and connect with
ssh -L {port}:{local}:{port}
"""
POOL = "local"
WORK_POOL = ("work-pool", "create", POOL, "--type", "process", "--overwrite")
DEPLOY = ("deploy", "--all")
START_S = 300.0
"""Longest wait for a server to start, in seconds. One that has ended is noticed at once."""
STOP_S = 45.0
"""Longest wait for a process to end, in seconds. A worker gives its runs 30 s to save."""
SETTINGS = Path("prefect.toml")
OURS = (Path("flows/epoch_loop.py"), Path("stages/index.py"))
"""Modules that distinguish our packages from other packages of the same name."""
Address = IPv4Address | IPv6Address
MARK = "# Written by `deepcluster serve`, and deleted when it stops.\n"


def serve(port: int, host: str = HOST) -> None:
    """Start the server, work pool, deployments and worker; return when they are stopped.

    Args:
        port: port that the server listens on.
        host: address that the server listens on; prints a warning if other machines can reach it.

    Raises:
        ConfigError: another server is running there, or a file in this folder is in the way.
        DeepClusterError: the server does not start, or a step fails.
    """
    address = address_of(host)
    url = url_of(address, port)
    api = f"{url}/api"
    _check(api, address, port)
    if not address.is_loopback:
        warning = OPEN.format(host=address, port=port, local=HOST)
        print(warning, file=sys.stderr, flush=True)  # noqa: T201
    _handle_signals()
    database = _database()
    environment = _environment(api, address, database)
    started: list[subprocess.Popen[bytes]] = []

    def prefect(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", *arguments]
        # A session of its own, so that all of its processes can be stopped together.
        process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603
        started.append(process)
        return process

    try:
        with _locked(database):
            server = prefect("server", "start", "--host", str(address), "--port", str(port))
            _wait_for_server(api, server, database)
        for step in (WORK_POOL, _deploy()):
            code = prefect("--no-prompt", *step).wait()
            if code != 0:
                raise _ended(f"`prefect {' '.join(step)}`", code)
        # Prefect reads this file in the working folder, so nobody has to export PREFECT_API_URL.
        SETTINGS.write_text(f'{MARK}[api]\nurl = "{api}"\n')
        worker = prefect("worker", "start", "--pool", POOL)
        _print_addresses(url, api)
        _wait_while_both_run(server, worker)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)  # noqa: T201
    finally:
        # The worker before the server, because its runs still report that they were stopped.
        for process in reversed(started):
            _stop(process)
        forget_dead_server()


def _deploy() -> tuple[str, ...]:
    """Return the command that registers this folder's deployments, or the shipped ones if none."""
    if Path(DEPLOYMENTS.name).is_file():
        return DEPLOY
    return (*DEPLOY, "--prefect-file", str(DEPLOYMENTS))


def _database() -> Database:
    """Return the database for the server; print a note if Prefect's settings name another one."""
    database, note = usable_database()
    if note:
        print(note, file=sys.stderr, flush=True)  # noqa: T201
    return database


@contextmanager
def _locked(database: Database) -> Iterator[None]:
    """Lock an outdated database during the block, so that no other server upgrades it too."""
    lock = lock_unless_current(database)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _environment(api: str, address: Address, database: Database) -> dict[str, str]:
    """Return the environment for the processes that are started here.

    Args:
        api: URL of the server.
        address: address that the server listens on.
        database: database of the server.
    """
    # prefect.yaml makes runs work in $PWD, which is not this folder after `make -C`, for example.
    environment = os.environ | {"PREFECT_API_URL": api, "PWD": str(Path.cwd())}
    reach_loopback_directly(environment, str(address))
    drop_unusable_proxies(environment)
    # The server would choose the database itself, and perhaps not the one that was locked here.
    environment[DATABASE_URL.names[0]] = database.url
    environment = KEEP_FREED_MEMORY | environment  # the worker's runs train
    if not address.is_loopback:
        # A relative address: browsers on other machines ask the server that the page came from.
        environment.setdefault("PREFECT_UI_API_URL", "/api")
    return environment


def _wait_for_server(api: str, server: subprocess.Popen[bytes], database: Database) -> None:
    try:
        wait_until_up(api, server)
    except WaitError as error:
        still_runs = server.poll() is None
        if still_runs:
            fix = "try again when the machine is less busy"
        else:
            fix = (
                f"correct what its output above names; if that is its database {database.shown}, "
                f"{OTHER_HOME}"
            )
        raise server_error("the Prefect server did not start", str(error), fix) from error


def _wait_while_both_run(server: subprocess.Popen[bytes], worker: subprocess.Popen[bytes]) -> None:
    """Raise an error once the worker or the server ends; neither is of use without the other."""
    processes = {"the Prefect server": server, "the worker": worker}
    while True:
        for name, process in processes.items():
            code = process.poll()
            if code is not None:
                raise _ended(name, code)
        time.sleep(0.2)


def _ended(name: str, code: int) -> ServerError:
    """Return the error for a process that has ended unexpectedly."""
    if code < 0:  # the negative number of a signal
        stopped_by = signal.Signals(-code)
        reason = f"it was stopped by {stopped_by.name}"
        return server_error(name, reason, "start `deepcluster serve` again")
    reason = f"it ended with exit code {code}"
    fix = "correct what its output above names, and start `deepcluster serve` again"
    return server_error(name, reason, fix)


def address_of(host: str) -> Address:
    """Parse an address to listen on. Names other than localhost are not looked up.

    Raises:
        ConfigError: the host is not an IP address.
    """
    try:
        return ip_address(HOST if host == "localhost" else host)
    except ValueError:
        raise ConfigError(
            f"--host {host}: is not an IP address.\n"
            f"  Fix: leave it out, or give an address of this machine; 0.0.0.0 stands for all."
        ) from None


def url_of(address: Address, port: int) -> str:
    """Return the URL at which this machine reaches a server that listens on an address."""
    is_version_4 = address.version == 4
    shown = str(address)
    if address.is_unspecified:  # stands for all addresses of this machine
        shown = HOST if is_version_4 else "::1"
    if is_version_4:
        return f"http://{shown}:{port}"
    return f"http://[{shown}]:{port}"


def _check(api: str, address: Address, port: int) -> None:
    forget_dead_server()
    if SETTINGS.exists():
        raise ConfigError(
            f"{SETTINGS}: would be overwritten; or another `deepcluster serve` runs here.\n"
            f"  Fix: stop the other one, or rename the file."
        )
    for module in OURS:
        package = module.parent
        is_package = (package / "__init__.py").exists()
        if is_package and not module.exists():
            raise ConfigError(
                f"{package}/: Prefect would import this package instead of DeepCluster's.\n"
                f"  Fix: start `deepcluster serve` in another folder."
            )
    if is_up(api):
        raise ConfigError(f"{api}: a server runs there already.\n  Fix: stop it, or use --port.")
    _check_port(address, port)


def _check_port(address: Address, port: int) -> None:
    """Raise ConfigError if a server cannot listen there; a server would take long to find out."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family) as probe:
            # As servers do, so that connections which were just closed do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((str(address), port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--port {port}: another program listens there.\n"
                f"  Fix: stop it, or use another --port."
            ) from error
        what = f"--host {address} --port {port}"
        option = "--host and --port"
        if error.errno == errno.EACCES:  # only the administrator may use lower ports
            what = f"--port {port}"
            option = "--port of 1024 or more"
        raise ConfigError(
            f"{what}: cannot be listened on ({error.strerror}).\n  Fix: use another {option}."
        ) from error


def forget_dead_server() -> None:
    """Delete the settings file that a killed `serve` left behind, if its server is gone."""
    try:
        text = SETTINGS.read_text()
    except (OSError, ValueError):  # usually the file does not exist
        return
    if not text.startswith(MARK):
        return
    try:
        api = tomllib.loads(text)["api"]["url"]
    except (tomllib.TOMLDecodeError, KeyError):  # `serve` was killed while it wrote the file
        api = ""
    if not api or is_gone(api):
        with suppress(OSError):  # if it cannot be deleted, a later error will name the file
            SETTINGS.unlink()


def _print_addresses(url: str, api: str) -> None:
    """Print how to reach the server and how to start a run."""
    # `prefect` in another shell does not exempt this machine from a proxy by itself.
    names = sorted(name for name in os.environ if is_proxy(name))
    direct = ""
    if names:
        direct = f"\nThere, first:            unset {' '.join(names)}"
    text = f"""
The UI:                  {url}
In another shell, here:  prefect deployment run deepcluster/epoch-loop --watch{direct}
From any other folder:   export PREFECT_API_URL={api}
Ctrl-C stops server and worker; a run that is started again continues where it stopped.
"""
    print(text, flush=True)  # noqa: T201


class WaitError(Exception):
    """A server that was started does not answer; the message gives the reason."""


def wait_until_up(api: str, server: subprocess.Popen[bytes], *, within_s: float = START_S) -> None:
    """Return once a server answers.

    Raises:
        WaitError: the server's process ended, or the server takes too long.
    """
    deadline = time.monotonic() + within_s
    while not is_up(api):
        code = server.poll()
        if code is not None:
            raise WaitError(f"its process ended with exit code {code}")
        if time.monotonic() > deadline:
            raise WaitError(f"it did not answer at {api} within {within_s:g} s")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it started, gently at first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(timeout=STOP_S)


def _handle_signals() -> None:
    """Raise KeyboardInterrupt on signals to stop, except those that are ignored, as under nohup.

    Child processes inherit that a signal is ignored, and a worker that ignores SIGINT never stops.
    They do not inherit handlers, so an ignored signal gets a handler that does nothing.
    """
    for number in SIGNALS:
        is_ignored = signal.getsignal(number) is signal.SIG_IGN
        handler = _ignore if is_ignored else _interrupt
        signal.signal(number, handler)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
