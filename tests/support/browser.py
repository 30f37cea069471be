"""A real browser for tests: headless Chromium, controlled by its DevTools protocol.

It needs only `websockets`, which Prefect installs.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.support.timeouts import WITHIN_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FOUND = [path for path in map(shutil.which, NAMES) if path is not None]
PROGRAM = FOUND[0] if FOUND else None
"""Path of the browser; None if none is installed."""
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium or Chrome on this machine")
COMPLAINTS = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}


class Tab:
    """One page, with its requests and its errors since it was opened."""

    def __init__(self, socket: Connection) -> None:
        """Record messages of the console and requests to the network."""
        self._socket = socket
        self._number = 0
        self.complaints: list[Any] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command; return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(command))
        # Events arrive before the answer; `_next` records them.
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(
        self, page: Path | str, *, width: int = 1600, height: int = 1000, dark: bool = False
    ) -> None:
        """Load a file or an address in a window of this size, and wait for it."""
        self.complaints.clear()
        self.requests.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self.send("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def wait_for(self, method: str) -> None:
        """Wait for the next event of a kind."""
        while self._next().get("method") != method:
            pass

    def press(self, *keys: str) -> None:
        """Press keys one after the other, by the names that JavaScript gives them."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            if key == "Enter":
                text = {"text": "\r"}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401  any JSON
        """Return the value of JavaScript in the page, or of its promise."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self) -> bytes:
        """Return a PNG of the visible part of the page."""
        answer = self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    def _next(self) -> dict[str, Any]:
        message = json.loads(self._socket.recv(timeout=WITHIN_S))
        if message.get("method") in COMPLAINTS:
            self.complaints.append(message["params"])
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message


@contextmanager
def browser() -> Iterator[Tab]:
    """Start Chromium with a profile of its own and one empty page; end it afterwards."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                PROGRAM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with connect(_address(Path(profile)), max_size=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()
            process.wait(timeout=WITHIN_S)


def _address(profile: Path) -> str:
    """Return the address of the first page, once the browser has written its port to a file."""
    written = profile / "DevToolsActivePort"
    deadline = time.monotonic() + WITHIN_S
    while not (written.exists() and "\n" in written.read_text()):
        assert time.monotonic() < deadline, "Chromium does not start"
        time.sleep(0.05)
    port, path = written.read_text().split("\n")[:2]
    with connect(f"ws://127.0.0.1:{port}{path}") as socket:
        while True:
            socket.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            found = json.loads(socket.recv(timeout=WITHIN_S))["result"]["targetInfos"]
            pages = [target["targetId"] for target in found if target["type"] == "page"]
            if pages:
                return f"ws://127.0.0.1:{port}/devtools/page/{pages[0]}"
            time.sleep(0.05)
