"""A real browser for tests: headless Chromium, told what to do by its DevTools protocol.

Only what Prefect brings along is used: `websockets`.
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

from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.support.timeouts import WITHIN_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), None)
"""None where there is no such browser."""
COMPLAINTS = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}


class Tab:
    """One page, and what it asked for and complained of since it was opened."""

    def __init__(self, socket: Connection) -> None:
        """Listen to the console and the network."""
        self._socket, self._number = socket, 0
        self.complaints: list[Any] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command; return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(
        self, path: Path, *, width: int = 1600, height: int = 1000, dark: bool = False
    ) -> None:
        """Load a file in a window of this size, and wait for it."""
        self.complaints.clear()
        self.requests.clear()
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])
        self.tell("Page.navigate", url=path.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401  any JSON
        """Return what JavaScript gives in the page; promises are waited for."""
        found = self.tell(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self) -> bytes:
        """Return a PNG of what is seen."""
        return base64.b64decode(self.tell("Page.captureScreenshot", format="png")["data"])

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
    """Return the address of the first page, once the browser has written its port down."""
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
