"""`deepcluster serve --host`: other machines get in only when told, and with a warning."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address")
def test_serve__on_all_addresses_with_a_warning(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [PROGRAM, "serve", "--port", str(port), "--host", "0.0.0.0"]  # noqa: S104
    environment = ENVIRONMENT | {"PREFECT_HOME": str(tmp_path / "home"), "PWD": str(Path.cwd())}
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output) as served,
    ):
        try:
            deadline = time.monotonic() + WITHIN_S
            while "The UI:" not in log.read_text():
                assert served.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            url = f"http://127.0.0.2:{port}/ui-settings"
            with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:
                settings = json.load(answer)
        finally:
            served.terminate()

    told = log.read_text()
    assert "warning: --host 0.0.0.0: other machines can reach this server" in told
    assert f"The UI:                  http://127.0.0.1:{port}\n" in told
    assert settings["api_url"] == "/api", "a browser elsewhere asks the server it has the page from"


def test_serve__refuses_a_name_before_anything_starts() -> None:
    refused = subprocess.run(
        [PROGRAM, "serve", "--host", "example.org"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "deepcluster: --host example.org: is not an IP address.\n  Fix: "
    )
    assert list(Path().iterdir()) == []
