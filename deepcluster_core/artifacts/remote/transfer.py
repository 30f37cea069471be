"""Push a run to an object store, and pull it: only what differs, each manifest last."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.commit import UNFINISHED, tidy
from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.locks import lock
from deepcluster_core.artifacts.manifest import MANIFEST, read_manifest
from deepcluster_core.artifacts.remote.downloads import delete_artifact, download_files, is_there
from deepcluster_core.artifacts.remote.inventory import (
    Artifact,
    Inventory,
    check_no_conflict,
    local_inventory,
    stored_inventory,
    to_transfer,
    total_bytes,
)
from deepcluster_core.artifacts.remote.known_objects import KnownObjects
from deepcluster_core.artifacts.remote.lease import Lease, Times
from deepcluster_core.artifacts.remote.small_files import SmallFiles
from deepcluster_core.artifacts.remote.store import Store
from deepcluster_core.artifacts.remote.uploads import Uploads, put_manifest
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.errors import ConfigError
from deepcluster_core.progress import Progress

STATE = ".remote"
"""Folder of a local run with what its places on stores had when last asked."""


@dataclass(frozen=True)
class Transferred:
    """What a push or a pull has done."""

    artifacts: int
    """Artifacts that were transferred."""
    artifacts_there: int
    """Artifacts that were there already."""
    bytes: int
    """Bytes of the files that were transferred, or found where an interrupted transfer ended."""
    others: list[str]
    """Further files, such as config.yaml, that were transferred."""
    unfinished: list[str]
    """Folders of artifacts that were left out, because they are not committed."""


class _Bytes:
    """Counts bytes from several threads and reports them."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total = 0, total
        self._progress = progress
        progress(0, total)

    def add(self, count: int) -> None:
        # A lost update would only make the bar inexact.
        self._done += count
        self._progress(min(self._done, self._total), self._total)


def push_run(
    root: Path, url: str, progress: Progress, *, update: bool = False, times: Times | None = None
) -> Transferred:
    """Upload what a local run has and its place on a store has not.

    Args:
        root: folder of the run.
        url: the place on the store.
        progress: receives the number of bytes that are there, of those to transfer.
        update: replace artifacts that differ.
        times: of leases.

    Raises:
        ArtifactError: an artifact is damaged, or a file has changed in both places.
        ConfigError: the store has a different run, or ignores conditions.
        StoreError: the store cannot be reached.
    """
    store = Store(url)
    here = local_inventory(root)
    store.probe()
    there = stored_inventory(store)
    if not update:
        check_no_conflict(here, there, root, store.url)
    wanted = [*to_transfer(here, there)]
    size = total_bytes(wanted)
    counted = _Bytes(size, progress)
    for artifact in wanted:
        lease = Lease(store, artifact.name, times)
        with _held(lease):
            _push(store, root, artifact, there, counted, lease.check)
    # Last, so that an incomplete copy has no config.yaml and is not a run.
    small = _small_files(store, root)
    others = small.push(here.others, there=there.others, update=update)
    num_there = len(here.artifacts) - len(wanted)
    return Transferred(len(wanted), num_there, size, others, here.unfinished)


@contextmanager
def _held(lease: Lease) -> Iterator[None]:
    lease.acquire()
    try:
        yield
    finally:
        lease.release()


def _push(
    store: Store,
    root: Path,
    artifact: Artifact,
    there: Inventory,
    counted: _Bytes,
    check: Callable[[], None],
) -> None:
    """Upload the files of an artifact that are missing, and then its manifest."""
    name = f"{artifact.name}/{MANIFEST}"
    found = store.get(name)
    if found is not None and artifact.name not in there.artifacts:
        # Another process has made it just now: an equal one is as good, a different one an error.
        put_manifest(store, artifact.name, artifact.body, None)
        return
    if found is not None and found[0] != artifact.body:
        store.delete([name])
        found = None
    if not artifact.is_pruned:
        uploads = Uploads(store, root / artifact.name, artifact.name, sent=counted.add)
        # An interrupted push has left files; their digests tell whether they are the right ones.
        expected: dict[str, str] = {}
        for file, record in artifact.manifest.files.items():
            if there.sizes.get(f"{artifact.name}/{file}") == record.bytes:
                expected[file] = record.sha256
        uploads.expect(expected)
        try:
            uploads.finish(artifact.manifest)
        finally:
            uploads.close()
    check()
    if found is None:
        put_manifest(store, artifact.name, artifact.body, None)


def pull_run(url: str, root: Path, progress: Progress, *, update: bool = False) -> Transferred:
    """Download what a run on a store has and the local folder has not.

    Args:
        url: the place on the store.
        root: folder of the run; created if missing.
        progress: receives the number of bytes that are there, of those to transfer.
        update: replace artifacts that differ.

    Raises:
        ArtifactError: a file on the store is not as its manifest names it, or has changed in both
            places.
        ConfigError: there is no run, or the folder holds a different one.
        NoRoomError: the disk is full.
        StoreError: the store cannot be reached.
    """
    store = Store(url)
    there = stored_inventory(store)
    if not there.artifacts and not there.others:
        raise ConfigError(f"{store.url}: there is no run.\n  Fix: check the bucket and the path.")
    with explain_resource_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        here = local_inventory(root)
        if not update:
            check_no_conflict(here, there, root, store.url)
        wanted = [*to_transfer(there, here)]
        size = total_bytes(wanted)
        counted = _Bytes(size, progress)
        for artifact in wanted:
            _pull(store, root, artifact, counted)
        # Last, so that an incomplete copy has no config.yaml and is not a run.
        others = _small_files(store, root).pull(there.others, update=update)
    num_there = len(there.artifacts) - len(wanted)
    return Transferred(len(wanted), num_there, size, others, [])


def _pull(store: Store, root: Path, artifact: Artifact, counted: _Bytes) -> None:
    """Download the files of an artifact that are missing, and write its manifest last."""
    folder = root / artifact.name
    manifest = artifact.manifest
    with lock(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / UNFINISHED).touch()
        for part in folder.rglob("*.part"):  # of a pull that was killed
            part.unlink()
        if (folder / MANIFEST).exists():
            former = read_manifest(folder)
            (folder / MANIFEST).unlink()
            delete_artifact(folder, former, keep=manifest)
        if not manifest.pruned:
            missing: list[str] = []
            for file, record in manifest.files.items():
                if is_there(folder / file, record):
                    counted.add(record.bytes)
                else:
                    missing.append(file)
            download_files(store, folder, artifact.name, manifest, missing, received=counted.add)
        write_atomically(folder / MANIFEST, artifact.body)
    # Deletes the mark, and what an interrupted attempt to make the artifact has left.
    tidy(folder)


def _small_files(store: Store, root: Path) -> SmallFiles:
    place = hashlib.sha256(store.url.encode()).hexdigest()[:16]
    return SmallFiles(store, root, KnownObjects(root / STATE / place))
