"""A running `deepcluster look`, which tests ask as a browser does."""

import csv
import io
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from deepcluster_core.artifacts.tables import read_labels
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S

LAST = 2
"""The last epoch of the run."""
HOSTILE = "<img src=x onerror=alert(1)>\"'&"


@dataclass(frozen=True)
class Served:
    """A running server, and what it shows."""

    address: str
    """With the key."""
    run: Path
    out: Path
    """Where copies are put."""
    process_id: int

    @property
    def base(self) -> str:
        """The address without the key."""
        return self.address.partition("/?")[0]

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """Yield a client that has opened the address, as a browser of the person does."""
        headers = {"Origin": self.base}
        with httpx.Client(
            base_url=self.base, follow_redirects=True, headers=headers, timeout=WITHIN_S
        ) as client:
            assert client.get(self.address).status_code == 200
            yield client

    def post(self, path: str, data: object, **headers: str) -> httpx.Response:
        """Send JSON; `headers` are further ones."""
        with self.client() as client:
            return client.post(path, json=data, headers=headers)

    def take_out(self, form: str, **ticked: object) -> httpx.Response:
        """Take out what is ticked, in one of the forms."""
        data = {"form": form, "images": [], "clusters": [], "folder": ""} | ticked
        return self.post(f"/epoch/{LAST}/take-out", data)


@contextmanager
def serving_look(run: Path, out: Path) -> Iterator[Served]:
    """Serve a run during the block; then end the server, which then says that it has stopped.

    SIGTERM does what Ctrl-C does, and is not ignored where the tests run in the background.
    """
    command = [PROGRAM, "look", run, "--no-browser", "--out", out]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = next(line.split()[1] for line in process.stdout if line.startswith("Open"))
        try:
            yield Served(address, run, out, process.pid)
        finally:  # otherwise the block would wait for the server
            process.terminate()
        rest = process.stdout.read()
        assert process.wait(timeout=WITHIN_S) == 0
        assert rest.splitlines()[-1] == "stopped"


def members_of(run: Path, cluster: int) -> list[int]:
    """Return the images of a cluster at the last epoch."""
    cluster_N = read_labels(run / f"labels/epoch={LAST:04d}").cluster_N
    return np.flatnonzero(cluster_N == cluster).tolist()


def rows_of(table: str) -> list[dict[str, str]]:
    """Return the rows of a table as CSV."""
    return [*csv.DictReader(io.StringIO(table, newline=""))]
