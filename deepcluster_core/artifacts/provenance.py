"""The provenance of an artifact: when, where and with which software it is made."""

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.manifest import Provenance

LIBRARIES = (
    "torch",
    "torchvision",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
    "zarr",
    "pyarrow",
    "prefect",
)


def provenance_of(device: str) -> Provenance:
    """Return when, where and with which software an artifact is made: here and now."""
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        python=platform.python_version(),
        **_versions(),
    )


@cache
def _versions() -> dict[str, Any]:
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "code_version": importlib.metadata.version("deepcluster-pipeline"),
        "git_commit": _git_commit(),
        "libraries": installed,
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout that contains this file, with `+changes` if edited."""
    here = Path(__file__)
    try:
        # Fails if git does not track this file: an environment inside an unrelated checkout.
        _git("ls-files", "--error-unmatch", here.name, at=here.parent)
        return _git(
            "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*", at=here.parent
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str, at: Path) -> str:
    found = subprocess.run(  # noqa: S603  constant arguments
        ["git", *arguments],  # noqa: S607  the user's git
        cwd=at,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return found.stdout.strip()
