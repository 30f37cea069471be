"""Serve the pages on this machine until Ctrl-C."""

import errno
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from deepcluster_core.artifacts.permissions import why_not_writable
from deepcluster_core.errors import ConfigError, DeepClusterError
from deepcluster_core.interrupts import SIGNALS
from deepcluster_core.text import printable
from flows.look.contents import RunContents
from flows.look.guard import KEY, Guard
from flows.look.pages import Pages
from flows.look.take_out import TakeOut
from stages.runs.past_run import PastRun

HOST = "127.0.0.1"
"""The only address: the pages show private images, and write to the folder of the run."""
NOT_FOUND = 404
STOP_S = 2
"""Seconds that answers in progress have to end after Ctrl-C."""


class Server(uvicorn.Server):
    """A server that ends on a signal to stop, without an error."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on each signal that is not ignored; uvicorn itself would raise it again."""
        handlers: dict[int, Any] = {}
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                handlers[number] = signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def look(run: str, *, epoch: int | None, port: int, browser: bool, out: Path) -> None:
    """Show a run's images to a browser on this machine; return after Ctrl-C.

    Args:
        run: the folder of the run, or its name under `runs/`.
        epoch: epoch to begin with; None for the last one.
        port: port to listen on; 0 for any free one.
        browser: whether to open the page in a browser, if there is a desktop.
        out: existing folder in which new folders of copied images may be made.

    Raises:
        ConfigError: the run, the epoch or the folder do not exist, or the port is in use.
        ArtifactError: the images or labels of the run are missing or damaged.
    """
    past = PastRun.open(run)
    parent = _checked_parent(out, past.folder.root)
    contents = RunContents(past, epoch)
    with _listening(port) as sockets:
        pages = Pages(contents, TakeOut(contents, parent))
        guard = Guard(application(pages))
        address = f"http://{HOST}:{sockets.getsockname()[1]}/?{KEY}={guard.key}"
        print(_greeting(contents, address), flush=True)  # noqa: T201
        if browser and _has_desktop():
            webbrowser.open(address)
        first = contents.at(contents.first_shown)
        threading.Thread(target=first.prepare_neighbours, daemon=True).start()
        config = uvicorn.Config(
            guard,
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_S,
        )
        try:
            Server(config).run([sockets])
        finally:
            pages.outliers.close()
    print("stopped", flush=True)  # noqa: T201


def application(pages: Pages) -> FastAPI:
    """Return the pages under their addresses."""
    app = FastAPI(openapi_url=None)  # no documentation, which would load from the network
    at_epoch = "/epoch/{epoch}"
    readable = {
        "/": pages.start,
        "/at": pages.another_epoch,
        "/look.css": pages.style,
        "/look.js": pages.script,
        "/list.js": pages.list_script,
        "/picture/{version}/{image_id}.png": pages.picture,
        f"{at_epoch}/": pages.clusters,
        f"{at_epoch}/cluster/{{cluster}}": pages.cluster,
        f"{at_epoch}/image/{{image_id}}": pages.image,
        f"{at_epoch}/search": pages.search,
        f"{at_epoch}/moves": pages.moves,
        f"{at_epoch}/moves/{{since}}/{{before}}/{{after}}": pages.flow,
    }
    for path, answer in readable.items():
        app.add_api_route(path, answer, methods=["GET"], response_model=None)
    writing = {
        f"{at_epoch}/cluster/{{cluster}}/name": pages.name,
        f"{at_epoch}/take-out": pages.take_out,
    }
    for path, answer in writing.items():
        app.add_api_route(path, answer, methods=["POST"], response_model=None)
    app.add_exception_handler(DeepClusterError, pages.problem)
    app.add_exception_handler(RequestValidationError, pages.invalid)
    app.add_exception_handler(NOT_FOUND, pages.invalid)
    return app


def _checked_parent(out: Path, run: Path) -> Path:
    """Return the folder for new folders as an absolute path.

    Raises:
        ConfigError: it does not exist, or lies among the artifacts of the run.
    """
    parent = out.absolute()
    if not parent.is_dir():
        raise ConfigError(f"--out {out}: is not a folder.\n  Fix: create it, or give another one.")
    root = run.resolve()
    place = parent.resolve()
    if place != root and place.is_relative_to(root):
        raise ConfigError(
            f"--out {out}: lies among the artifacts of the run.\n  Fix: give another folder."
        )
    return parent


def _listening(port: int) -> socket.socket:
    """Return a socket that listens on this machine only.

    Raises:
        ConfigError: another program listens on the port, or it may not be used.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why, fix = "another program listens there", "another one, or 0 for any that is free"
        else:
            why, fix = error.strerror or str(error), "one of 1024 or more"
        raise ConfigError(f"--port {port}: {why}.\n  Fix: use {fix}.") from error
    # Connections inherit it. asyncio sets it only for sockets that were created in another way, and
    # without it each answer on a connection that is kept waits 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _has_desktop() -> bool:
    """Return whether a browser with a window can be opened, and not one in the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _greeting(contents: RunContents, address: str) -> str:
    lines = [
        f"{printable(contents.name)}: {contents.images.num_images:,} images, "
        f"epoch {contents.first_shown}",
        f"Open  {address}",
        "Only this machine, and only with this address. Ctrl-C ends it.",
    ]
    root = contents.past.folder.root
    if not os.access(root, os.W_OK):
        lines.append(f"Clusters cannot be named: {printable(why_not_writable(root))}")
    return "\n".join(lines)
