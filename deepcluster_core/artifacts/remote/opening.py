"""Find and open the mirrors of runs on object stores."""

import hashlib
import json
import os
import re
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.remote.mirror import Mirror
from deepcluster_core.artifacts.remote.room import Room
from deepcluster_core.artifacts.remote.urls import normal_url

MIRRORS = "remote"
"""Folder for mirrors below a scratch folder."""
REMOTE = "remote.json"
_PLACE = re.compile(rf"^(.*/{MIRRORS}/[0-9a-f]{{16}})/([^/]+)(?:/|$)")
_OPENING = threading.Lock()


def mirror_of(folder: Path) -> Mirror | None:
    """Return the mirror that a folder is in; None for every local run. Cached."""
    # A local run costs one search in its path, and no look at the disk.
    text = str(folder)
    if f"{MIRRORS}/" not in text and folder.is_absolute():
        return None
    found = _PLACE.match(os.path.abspath(text))  # noqa: PTH100  `absolute` keeps `..`
    if found is None:
        return None
    return _mirror_at(found[1], found[2])


def _mirror_at(above: str, name: str) -> Mirror | None:
    try:
        remote: dict[str, Any] = json.loads(Path(above, REMOTE).read_bytes())
    except FileNotFoundError:
        return None
    return _opened(remote["url"], above, name, remote.get("scratch_bytes"))


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
    name = url.rpartition("/")[2]
    remote: dict[str, Any] = {"url": url}
    if scratch_bytes is not None:
        remote["scratch_bytes"] = scratch_bytes
    text = json.dumps(remote, indent=2).encode()

    def make() -> None:
        (above / name).mkdir(parents=True, exist_ok=True)
        path = above / REMOTE
        if not path.exists() or path.read_bytes() != text:
            write_atomically(path, text)

    Room(above.parent, scratch_bytes).repeat_on_full_disk(scratch, make)
    return _opened(url, str(above), name, scratch_bytes)


def _opened(url: str, above: str, name: str, scratch_bytes: int | None) -> Mirror:
    with _OPENING:  # one client a process and URL
        return _mirror(url, above, name, scratch_bytes)


@lru_cache(maxsize=64)
def _mirror(url: str, above: str, name: str, scratch_bytes: int | None) -> Mirror:
    room = Room(Path(above).parent, scratch_bytes)
    return Mirror(url, Path(above) / name, room)
