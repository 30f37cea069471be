"""A run with several ranks in processes that tests watch and kill; real stages, without Prefect.

Used as a program, it runs a recipe: python -m tests.support.ranked_run RECIPE RUN OVERRIDES
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deepcluster
from deepcluster_core.artifacts.manifest import MANIFEST, read_manifest
from deepcluster_core.errors import DeepClusterError
from stages.runs.launch.lifetime import start_time
from tests.support.launching import ROOT
from tests.support.timeouts import WITHIN_S

USER_ERROR = 2
MARK = "DEEPCLUSTER_TEST_RUN"
"""A variable of the environment by which all processes of a run are found."""


@dataclass(frozen=True)
class RankedRun:
    """A recipe and the folder of its run; the processes have temporary files of their own."""

    recipe: Path
    run: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def scratch(self) -> Path:
        """The folder for large intermediate results, unless a call sets another one."""
        return self.run.with_name(f"{self.run.name}-scratch")

    def command(self, ranks: int, overrides: Mapping[str, Any]) -> list[str]:
        """Return the command; a section in `overrides` is merged with that of the recipe."""
        compute: dict[str, Any] = {"ranks": ranks, "threads": 1, "scratch": str(self.scratch)}
        compute |= overrides.get("compute", {})
        settings = json.dumps({**overrides, "compute": compute})
        return [sys.executable, "-m", __name__, str(self.recipe), str(self.run), settings]

    def environment(self) -> dict[str, str]:
        """Return the environment; launches keep their messages in a folder beside the run."""
        temporary = self.run.with_name(f"{self.run.name}-tmp")
        temporary.mkdir(parents=True, exist_ok=True)
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
        return {**os.environ, **own, MARK: self.mark}

    def start(self, ranks: int, *prefix: str, **overrides: Any) -> "subprocess.Popen[str]":  # noqa: ANN401  a recipe's
        """Start the run.

        Args:
            ranks: number of ranks.
            prefix: a command that starts a command, such as `ip netns exec NAME`.
            overrides: keys of the recipe to set, and sections with keys to set.
        """
        return subprocess.Popen(
            [*prefix, *self.command(ranks, overrides)],
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )

    def finish(self, ranks: int, **overrides: Any) -> str:  # noqa: ANN401  a recipe's
        """Run to the end, and return what was printed."""
        process = self.start(ranks, **overrides)
        output, _ = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0, output
        return output

    def refused(self, process: "subprocess.Popen[str]") -> str:
        """Wait for the end of the run by an error for people; return its message."""
        output, _ = process.communicate(timeout=WITHIN_S)
        assert process.returncode == USER_ERROR, output
        assert "Traceback" not in output
        assert output.count("deepcluster: ") == 1
        assert self.all_ended()
        return output

    def processes(self) -> dict[int, str]:
        """Return all living processes of the run by number: flow, agent, rank N or other."""
        found: dict[int, str] = {}
        mark = f"{MARK}={self.mark}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile, or another user's
                variables = (folder / "environ").read_bytes().split(b"\0")
                if mark in variables and start_time(int(folder.name)) is not None:
                    command = (folder / "cmdline").read_text()
                    found[int(folder.name)] = _kind(command, variables)
        return found

    def ranks(self) -> list[int]:
        """Return the numbers of the processes of the ranks that live, in the order of the ranks."""
        kinds = {kind: number for number, kind in self.processes().items()}
        return [kinds[kind] for kind in sorted(kinds) if kind.startswith("rank ")]

    def all_ended(self, *, within_s: float = 10) -> bool:
        """Return whether all processes of the run end in time."""
        deadline = time.monotonic() + within_s
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def artifact(self, kind: str, epoch: int = 0) -> Path:
        """Return the folder of an artifact."""
        return self.run / kind / f"epoch={epoch:04d}"

    def files(self, kind: str, epoch: int = 0) -> dict[str, str]:
        """Return the digest of each file of an artifact."""
        records = read_manifest(self.artifact(kind, epoch)).files
        return {name: record.sha256 for name, record in records.items()}

    def check_artifacts(self) -> list[Path]:
        """Check that all files of artifacts with a manifest are as committed; return them."""
        checked: list[Path] = []
        for manifest in self.run.rglob(MANIFEST):
            for name, record in read_manifest(manifest.parent).files.items():
                problem = record.problem_of(manifest.parent / name, hash_always=True)
                assert problem is None, f"{manifest.parent / name}: {problem}"
            checked.append(manifest.parent)
        return checked


def _kind(command: str, variables: list[bytes]) -> str:
    # The agent's arguments contain those of a rank.
    if "stages.runs.launch.agent" in command:
        return "agent"
    if "stages.rank\0" in command:
        # At the moment in which a process begins, its variables cannot be read yet.
        numbers = [variable[5:] for variable in variables if variable.startswith(b"RANK=")]
        return f"rank {numbers[0].decode()}" if numbers else "other"
    return "flow" if __name__ in command else "other"


def when(
    condition: Callable[[], bool], process: "subprocess.Popen[str]", *, look_every_s: float = 0.002
) -> bool:
    """Wait until something holds; return False if the process ends first."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(look_every_s)
    return True


def main(recipe: str, run: str, overrides: str) -> None:
    """Run a recipe, and end like the command."""
    try:
        deepcluster.run_epochs(recipe, run, overrides=json.loads(overrides), echo=False)
    except DeepClusterError as error:
        print(f"deepcluster: {error}")  # noqa: T201
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main(*sys.argv[1:])
