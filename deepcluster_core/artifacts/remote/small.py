"""Small files of a run beside its artifacts, such as config.yaml, on the store and here."""

from collections.abc import Sequence
from pathlib import Path

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.remote.known import Known, sha256_of
from deepcluster_core.artifacts.remote.store import UNCHANGED, Store
from deepcluster_core.errors import ArtifactError


class SmallFiles:
    """The files right in a run's folder; names that begin with `.` or `_` are left out."""

    def __init__(self, store: Store, root: Path, known: Known) -> None:
        self._store, self._root, self._known = store, root, known

    def pull(self) -> None:
        """Get files that changed on the store, except those that only changed here.

        Raises:
            ArtifactError: a file has changed in both places.
        """
        _, objects = self._store.list_folder("")
        for found in objects:
            if is_small_file(found.name):
                self._pull(found.name)

    def _pull(self, name: str) -> None:
        known = self._known.get(name)
        path = self._root / name
        local = path.read_bytes() if path.exists() else None
        etag = known.etag if known is not None and local is not None else ""
        found = self._store.get_if_changed(name, etag)
        if found is None or found is UNCHANGED:
            return
        body, etag = found
        is_changed_here = (
            known is not None and local is not None and sha256_of(local) != known.sha256
        )
        if local != body and (is_changed_here or (known is None and local is not None)):
            raise self._conflict(name)
        if local != body:
            self._root.mkdir(parents=True, exist_ok=True)
            write_atomically(path, body)
        self._known.put(name, body, etag)

    def push(self, names: Sequence[str]) -> None:
        """Upload files that differ from what the store had when last asked.

        Raises:
            ArtifactError: a file has changed on the store as well.
        """
        for name in names:
            self._push(name)

    def _push(self, name: str) -> None:
        body = (self._root / name).read_bytes()
        if self._known.is_published(name, body):
            return
        known = self._known.get(name)
        if known is None:
            written = self._store.create(name, body)
        else:
            written = self._store.replace(name, body, known.etag)
        if written is None:
            # The response may have been lost, or another process may have written the same.
            found = self._store.get(name)
            if found is None or found[0] != body:
                raise self._conflict(name)
            written = found[1]
        self._known.put(name, body, written)

    def _conflict(self, name: str) -> ArtifactError:
        return ArtifactError(
            f"{self._store.url}/{name}: was changed on the store, and {self._root / name} here.\n"
            f"  Fix: move the local file away and run the same command again; then make the change "
            f"again."
        )


def is_small_file(name: str) -> bool:
    """Return whether an object right in a run's folder belongs to the run."""
    return "/" not in name and "\0" not in name and not name.startswith((".", "_"))
