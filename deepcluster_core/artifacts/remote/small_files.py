"""Small files of a run beside its artifacts, such as config.yaml, on the store and here."""

from collections.abc import Sequence
from pathlib import Path

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.remote.known_objects import KnownObjects, sha256_of
from deepcluster_core.artifacts.remote.store import UNCHANGED, Store
from deepcluster_core.errors import ArtifactError


class SmallFiles:
    """The files right in a run's folder; names that begin with `.` or `_` are left out."""

    def __init__(self, store: Store, root: Path, known: KnownObjects) -> None:
        self._store, self._root, self._known = store, root, known

    def pull(self, names: Sequence[str] | None = None, *, update: bool = False) -> list[str]:
        """Get files that changed on the store, except those that only changed here.

        Args:
            names: the files; those right in the run's folder if left out.
            update: replace files that have changed in both places.

        Returns:
            The files that were replaced or created here.

        Raises:
            ArtifactError: a file has changed in both places.
        """
        if names is None:
            _, objects = self._store.list_folder("")
            names = [found.name for found in objects if is_small_file(found.name)]
        return [name for name in names if self._pull(name, update=update)]

    def _pull(self, name: str, *, update: bool) -> bool:
        known = self._known.get(name)
        path = self._root / name
        local = path.read_bytes() if path.exists() else None
        etag = known.etag if known is not None and local is not None else ""
        found = self._store.get_if_changed(name, etag)
        if found is None or found is UNCHANGED:
            return False
        body, etag = found
        is_changed_here = (
            known is not None and local is not None and sha256_of(local) != known.sha256
        )
        is_of_unknown_origin = known is None and local is not None
        if local != body:
            if (is_changed_here or is_of_unknown_origin) and not update:
                raise self._conflict(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, body)
        self._known.put(name, body, etag)
        return local != body

    def push(
        self, names: Sequence[str], *, there: Sequence[str] | None = None, update: bool = False
    ) -> list[str]:
        """Upload files that differ from what the store had when last asked.

        Args:
            names: the files.
            there: those that the store has now, if that is known.
            update: replace files that have changed in both places.

        Returns:
            The files that were written on the store.

        Raises:
            ArtifactError: a file has changed on the store as well.
        """
        for name in names:
            if there is not None and name not in there:
                self._known.forget(name)
        return [name for name in names if self._push(name, update=update)]

    def _push(self, name: str, *, update: bool) -> bool:
        body = (self._root / name).read_bytes()
        if self._known.is_published(name, body):
            return False
        known = self._known.get(name)
        if known is None:
            written = self._store.create(name, body)
        else:
            written = self._store.replace(name, body, known.etag)
        if written is None:
            # The response may have been lost, or another process may have written the same.
            found = self._store.get(name)
            if found is not None and found[0] == body:
                self._known.put(name, *found)
                return False
            if found is not None and not update:
                raise self._conflict(name)
            written = self._store.put(name, body)
        self._known.put(name, body, written)
        return True

    def _conflict(self, name: str) -> ArtifactError:
        return ArtifactError(
            f"{self._store.url}/{name}: was changed on the store, and {self._root / name} here.\n"
            f"  Fix: move the local file away and run the same command again; then make the change "
            f"again."
        )


def is_small_file(name: str) -> bool:
    """Return whether an object right in a run's folder belongs to the run."""
    return (
        "/" not in name
        and "\0" not in name
        and not name.startswith((".", "_"))
        and not name.endswith(".part")
    )
