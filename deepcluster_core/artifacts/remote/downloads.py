"""Download files of an artifact: whole, and only as the manifest names them."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from deepcluster_core.artifacts.files import FileRecord, delete_old_parts
from deepcluster_core.artifacts.manifest import Manifest
from deepcluster_core.artifacts.remote.room import Room
from deepcluster_core.artifacts.remote.store import Store
from deepcluster_core.artifacts.remote.uploads import AT_ONCE
from deepcluster_core.artifacts.resource_errors import FULL, explain_resource_errors
from deepcluster_core.errors import ArtifactError


def is_there(path: Path, record: FileRecord) -> bool:
    """Return whether a local file is as its manifest names it."""
    return record.problem_of(path) is None


def download_files(
    store: Store,
    folder: Path,
    name: str,
    manifest: Manifest,
    files: Iterable[str],
    *,
    room: Room | None = None,
    received: Callable[[int], None] | None = None,
) -> None:
    """Download files of an artifact, several at a time.

    Args:
        store: the run on the store.
        folder: local folder of the artifact.
        name: name of this folder in the run.
        manifest: names the files, their sizes and digests.
        files: those to download.
        room: of a mirror; makes room for each file first.
        received: called with the number of bytes as they arrive, from several threads.

    Raises:
        ArtifactError: a file is missing on the store, or differs from the manifest.
        NoRoomError: the disk is full.
        StoreError: the store cannot be reached.
    """

    def download(file: str) -> None:
        one = _Download(store, f"{name}/{file}", folder / file, manifest.files[file])
        with explain_resource_errors(folder):
            if room is None:
                one.run(None, received)
                return
            with room.fetching(f"{store.url}/{name}/{file}"):
                # Another thread or process may have fetched it meanwhile.
                if not is_there(folder / file, manifest.files[file]):
                    one.run(room, received)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
        running = [pool.submit(download, file) for file in files]
        try:
            for future in running:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Download:
    """One file on its way from the store."""

    def __init__(self, store: Store, name: str, path: Path, record: FileRecord) -> None:
        self._store, self._name = store, name
        self._path, self._record = path, record

    def run(self, room: Room | None, received: Callable[[int], None] | None) -> None:
        if room is not None:
            room.make(self._record.bytes)
        try:
            self._get(received)
        except OSError as error:
            # A library may have written to the disk meanwhile, or it is not in a folder of ours.
            if error.errno not in FULL or room is None:
                raise
            room.make_on_full_disk(self._record.bytes)
            self._get(received)

    def _get(self, received: Callable[[int], None] | None) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        delete_old_parts(self._path)
        # Several processes may fetch the same file; the last one to end replaces equal bytes.
        part = self._path.with_name(f"{self._path.name}.{uuid4().hex[:12]}.part")
        digest = hashlib.sha256()

        def seen(data: bytes) -> None:
            digest.update(data)
            if received is not None:
                received(len(data))

        try:
            self._download(part, seen)
            self._check(part.stat().st_size, digest.hexdigest())
            # The time of access says when the file was last used, see `room`.
            os.utime(part, ns=(time.time_ns(), self._record.mtime_ns))
            part.replace(self._path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _download(self, part: Path, seen: Callable[[bytes], None]) -> None:
        try:
            self._store.download(self._name, part, seen)
        except FileNotFoundError as error:
            if error.errno is not None:  # the local folder was deleted meanwhile
                raise
            raise self._damaged("it is missing") from None

    def _check(self, size: int, sha256: str) -> None:
        if size != self._record.bytes:
            raise self._damaged(f"it has {size} bytes instead of {self._record.bytes}")
        if sha256 != self._record.sha256:
            raise self._damaged("its contents differ from the digest in the manifest")

    def _damaged(self, problem: str) -> ArtifactError:
        return ArtifactError(
            f"{self._store.url}/{self._name}: cannot be used: {problem}.\n"
            f"  Cause: another process makes this artifact just now, or the object was changed\n"
            f"  Fix:   run the same command again. If this comes again, delete "
            f"{self._store.url}/{self._name.partition('/')[0]}/…/_manifest.json of this artifact; "
            f"the run then makes it again."
        )


def delete_artifact(folder: Path, manifest: Manifest | None, *, keep: Manifest | None) -> None:
    """Delete the files of a local artifact, but not those that `keep` names with the same digest.

    Saves of an interrupted attempt are left alone.
    """
    if manifest is None:
        return
    for file, record in manifest.files.items():
        kept = keep.files.get(file) if keep is not None and not keep.pruned else None
        if kept is None or kept.sha256 != record.sha256:
            with suppress(FileNotFoundError):
                (folder / file).unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            with suppress(OSError):
                path.rmdir()
