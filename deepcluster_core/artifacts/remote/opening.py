"""Find and open the mirrors of runs on object stores."""

import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.mirrored import MIRRORS
from deepcluster_core.artifacts.remote.mirror import Mirror
from deepcluster_core.artifacts.remote.room import Room
from deepcluster_core.artifacts.remote.urls import normal_url

REMOTE = "remote.json"
_PLACE = re.compile(rf"^(.*/{MIRRORS}/[0-9a-f]{{16}})/([^/]+)(?:/|$)")
_OPENED: dict[Path, Mirror] = {}
"""The mirrors of this process by their folder. Each is one object, whatever other processes write
to `remote.json` meanwhile, because it knows the leases and uploads of this process."""
_OPENING = threading.Lock()


def mirror_of(folder: Path) -> Mirror | None:
    """Return the mirror that a folder is in; None for every local run."""
    found = _PLACE.match(os.path.abspath(folder))  # noqa: PTH100  `absolute` keeps `..`
    if found is None:
        return None
    root = Path(found[1], found[2])
    return _OPENED.get(root) or _mirror_at(root)


def _mirror_at(root: Path) -> Mirror | None:
    """Return the mirror that another process has made in a folder; None if there is none."""
    try:
        remote: dict[str, Any] = json.loads((root.parent / REMOTE).read_bytes())
    except FileNotFoundError:
        return None
    return _opened(remote["url"], root, remote.get("scratch_bytes"))


def open_mirror(url: str, scratch: Path, scratch_bytes: int | None) -> Mirror:
    """Return the mirror of a run, making its local folder below `scratch` if needed.

    Args:
        url: the run's URL.
        scratch: local folder for the mirrors of all runs.
        scratch_bytes: most bytes of the mirrors below `scratch`; None for no limit.

    Raises:
        ConfigError: the URL is not one of an object store.
        ArtifactError: the folder cannot be made.
    """
    url = normal_url(url)
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    above = Path(os.path.abspath(scratch)) / MIRRORS / digest  # noqa: PTH100
    root = above / url.rpartition("/")[2]
    remote: dict[str, Any] = {"url": url}
    if scratch_bytes is not None:
        remote["scratch_bytes"] = scratch_bytes
    text = json.dumps(remote, indent=2).encode()

    def make() -> None:
        root.mkdir(parents=True, exist_ok=True)
        path = above / REMOTE
        if not path.exists() or path.read_bytes() != text:
            write_atomically(path, text)

    Room(above.parent, scratch_bytes).repeat_on_full_disk(scratch, make)
    mirror = _opened(url, root, scratch_bytes)
    mirror.room.limit = scratch_bytes
    return mirror


def _opened(url: str, root: Path, scratch_bytes: int | None) -> Mirror:
    with _OPENING:
        if root not in _OPENED:
            _OPENED[root] = Mirror(url, root, Room(root.parent.parent, scratch_bytes))
        return _OPENED[root]
