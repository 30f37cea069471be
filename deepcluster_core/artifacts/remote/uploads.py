"""Upload an artifact's files in the background, and its manifest under a condition."""

import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from deepcluster_core.artifacts.files import sha256_at
from deepcluster_core.artifacts.manifest import MANIFEST, Manifest, validated_manifest
from deepcluster_core.artifacts.remote.known_objects import KnownObjects
from deepcluster_core.artifacts.remote.store import Store
from deepcluster_core.errors import ArtifactError, first_line
from deepcluster_core.shortage import explain_damage

AT_ONCE = 4
"""Files that are uploaded or downloaded at a time. Each has up to 16 MiB in memory."""


class Uploads:
    """The uploads of one artifact."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        name: str,
        known: KnownObjects | None = None,
        sent: Callable[[int], None] | None = None,
    ) -> None:
        """Begin without any upload.

        Args:
            store: the run on the store.
            folder: local folder of the artifact.
            name: name of this folder in the run.
            known: where uploads are recorded, so that another attempt need not repeat them.
            sent: called with the number of bytes that are on the store, from several threads.
        """
        self._store, self._folder, self._name = store, folder, name
        self._known, self._sent = known, sent
        # What an interrupted attempt has uploaded; the store is asked whether it still has it.
        self._earlier = known.uploads(name) if known is not None else {}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload")
        self._running: dict[str, Future[str]] = {}
        self._lock = threading.Lock()

    def expect(self, digests: dict[str, str]) -> None:
        """Name files that the store may have already, and their SHA-256."""
        self._earlier |= digests

    def begin(self, names: Iterable[str]) -> None:
        """Begin to upload files that are whole."""
        for name in names:
            self._running[name] = self._pool.submit(self._upload, name)

    def flush(self) -> None:
        """Wait for all uploads; one that failed in the background is tried once more.

        Raises:
            StoreError: the store cannot be reached.
        """
        self.begin([name for name in self._running if self._digest(name) is None])
        for running in self._running.values():
            running.result()

    def finish(self, manifest: Manifest, uploaded: Collection[str] = ()) -> None:
        """Upload what is missing of a manifest's files, and wait for all uploads.

        An upload that failed in the background is tried once more.

        Args:
            manifest: names the files.
            uploaded: files that other processes have uploaded.

        Raises:
            ArtifactError: a file is not as the manifest names it.
            StoreError: the store cannot be reached.
        """
        own = {name: one for name, one in manifest.files.items() if name not in uploaded}
        if self._known is not None:
            self._earlier |= self._known.uploads(self._name)
        self.begin([name for name, one in own.items() if self._digest(name) != one.sha256])
        for name, record in own.items():
            if self._running[name].result() != record.sha256:
                raise ArtifactError(
                    f"{self._folder / name}: changed since it was committed; not published.\n"
                    f"  Fix: delete the artifact's folder; the same command makes it again."
                )

    def _digest(self, name: str) -> str | None:
        """Return the SHA-256 of what was uploaded; None if nothing was, or the upload failed."""
        running = self._running.get(name)
        if running is None or running.exception() is not None:
            return None
        return running.result()

    def close(self) -> None:
        """Begin no more uploads, and wait for those that run."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _upload(self, name: str) -> str:
        path = self._folder / name
        found = path.stat()
        sha256 = sha256_at(path, found.st_size, found.st_mtime_ns)
        target = f"{self._name}/{name}"
        if self._earlier.get(name) != sha256 or not self._has(target, found.st_size, sha256):
            self._store.put(target, path, sha256=sha256, sent=self._sent)
            if self._known is not None:
                with self._lock:
                    self._known.add_upload(self._name, name, sha256)
        elif self._sent is not None:
            self._sent(found.st_size)
        return sha256

    def _has(self, target: str, size: int, sha256: str) -> bool:
        found = self._store.head(target)
        return found is not None and (found.bytes, found.sha256) == (size, sha256)


def put_manifest(store: Store, folder: str, body: bytes, etag: str | None) -> tuple[bytes, str]:
    """Write a manifest unless another process has written one; return what is there, and its ETag.

    Args:
        store: the run on the store.
        folder: name of the artifact's folder in the run.
        body: the manifest.
        etag: of the manifest that is replaced; None if there is none.

    Returns:
        The manifest of this process, or an equivalent one of another: of the same key.

    Raises:
        ArtifactError: another process has committed a different artifact.
    """
    name = f"{folder}/{MANIFEST}"
    own = parse_manifest(f"{store.url}/{name}", body)
    while True:
        written = store.create(name, body) if etag is None else store.replace(name, body, etag)
        if written is not None:
            return body, written
        found = store.get(name)
        if found is None:  # deleted meanwhile
            etag = None
            continue
        if found[0] == body:
            return found
        there = parse_manifest(f"{store.url}/{name}", found[0])
        is_own = own.attempt is not None and there.attempt == own.attempt
        # Whoever has committed the same key has made the same artifact from the same inputs.
        if is_own or (there.key == own.key and not there.pruned):
            return found
        raise ArtifactError(
            f"{store.url}/{folder}: another process has committed a different artifact meanwhile.\n"
            f"  Cause: two runs with different settings work on the same URL\n"
            f"  Fix:   let only one of them run, or give each its own URL."
        )


def parse_manifest(where: str, body: bytes) -> Manifest:
    """Return a manifest of the store.

    Raises:
        ArtifactError: it cannot be read by this version of the program.
    """

    def explain(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{where}: cannot be read as a manifest of this version of the program.\n"
            f"  Cause: {first_line(error)}\n"
            f"  Fix:   delete it on the store; the same command then makes the artifact again."
        )

    with explain_damage(explain, ValueError):
        return validated_manifest(where, body)
