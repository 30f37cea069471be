"""Runs on an object store, made by processes that stand for machines with disks of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.store_proxy import StoreProxy

MAKE = """
import sys, deepcluster
recipe, run, epochs = sys.argv[1:]
deepcluster.run_epochs(recipe, run, epochs=int(epochs), echo=False)
"""
"""A program that makes a run without Prefect."""
MAKE_BY_RANKS = MAKE.replace("echo=False", "echo=False, overrides={'compute': {'ranks': 2}}")


@dataclass(frozen=True)
class Machine:
    """A scratch folder of its own, and the environment with which a store is reached."""

    scratch: Path
    environment: Mapping[str, str]

    def start(
        self, recipe: Path, url: str, *, epochs: int, program: str = MAKE
    ) -> "subprocess.Popen[str]":
        """Start a process that makes a run."""
        environment = {
            **os.environ,
            **self.environment,
            "XDG_CACHE_HOME": str(self.scratch),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-c", program, str(recipe), url, str(epochs)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def mirror(self) -> Path:
        """The folder of the only run that this machine has a mirror of."""
        (found,) = (self.scratch / "deepcluster" / "remote").glob("*/*/config.yaml")
        return found.parent


def finished(process: "subprocess.Popen[str]", within_s: float) -> str:
    """Wait for a process that must succeed; return its output."""
    output, _ = process.communicate(timeout=within_s)
    assert process.returncode == 0, output
    return output


def contents(root: Path) -> dict[str, Any]:
    """Return what the artifacts of a run contain, by folder: keys, and digests of files.

    Metrics hold seconds, which differ from run to run, so that only their columns count.
    """
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("_manifest.json")):
        folder = path.parent.relative_to(root).as_posix()
        manifest = json.loads(path.read_bytes())
        is_timed = folder.startswith("metrics")
        digests = {name: file["sha256"] for name, file in manifest["files"].items()}
        found[folder] = [manifest["key"], [*digests] if is_timed else digests]
    return found


def manifests_written(proxy: StoreProxy) -> list[str]:
    """Return the artifacts whose manifest was written, in order, by their folder."""
    return [
        request.path.partition("?")[0].removesuffix("/_manifest.json")
        for request in proxy.requests
        if request.method == "PUT" and request.path.partition("?")[0].endswith("/_manifest.json")
    ]
