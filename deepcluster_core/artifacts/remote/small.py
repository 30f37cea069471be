"""Small files of a run beside its artifacts, such as config.yaml, on the store and here."""

from collections.abc import Sequence
from pathlib import Path

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.remote.known import Known, sha256_of
from deepcluster_core.artifacts.remote.store import UNCHANGED, Store, StoredObject
from deepcluster_core.errors import ArtifactError

EVALUATIONS = "evaluations"
EDITED = ".csv"
"""Suffix of files that people edit. All others, such as the report, are made anew from artifacts
and the recipe, so that the last one wins."""


class SmallFiles:
    """The files right in a run's folder; names that begin with `.` or `_` are left out."""

    def __init__(self, store: Store, root: Path, known: Known) -> None:
        self._store, self._root, self._known = store, root, known

    def pull(self, folder: str = "") -> None:
        """Get files that changed on the store, except those that only changed here.

        In the folder of a sweep, also those of its runs. The folders of evaluations are made, so
        that they are found as those of a run on this machine.

        Raises:
            ArtifactError: a file that people edit has changed in both places.
        """
        folders, objects = self._store.list_folder(folder)
        for found in objects:
            if is_small_file(found.name.rpartition("/")[2]):
                self._pull(found)
        for name in folders:
            below = f"{folder}/{name}" if folder else name
            if "=" in name:
                self.pull(below)
            elif name == EVALUATIONS:
                for kind in self._store.list_folder(below)[0]:
                    (self._root / below / kind).mkdir(parents=True, exist_ok=True)

    def _pull(self, listed: StoredObject) -> None:
        name = listed.name
        known = self._known.get(name)
        path = self._root / name
        local = path.read_bytes() if path.exists() else None
        etag = known.etag if known is not None and local is not None else ""
        if etag == listed.etag:
            return
        found = self._store.get_if_changed(name, etag)
        if found is None or found is UNCHANGED:
            return
        body, etag = found
        is_changed_here = (
            known is not None and local is not None and sha256_of(local) != known.sha256
        )
        is_other = is_changed_here or (known is None and local is not None)
        if local != body and is_other and is_edited(name):
            raise self._conflict(name)
        if local != body:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, body)
        self._known.put(name, body, etag)

    def push(self, names: Sequence[str]) -> None:
        """Upload files that differ from what the store had when last asked.

        Raises:
            ArtifactError: a file that people edit has changed on the store as well.
        """
        for name in names:
            self._push(name)

    def _push(self, name: str) -> None:
        body = (self._root / name).read_bytes()
        if self._known.is_published(name, body):
            return
        known = self._known.get(name)
        if not is_edited(name):
            written = self._store.put(name, body)
        elif known is None:
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


def is_edited(name: str) -> bool:
    """Return whether people edit a file, so that no change may be lost."""
    return name.endswith(EDITED)


def is_small_file(name: str) -> bool:
    """Return whether an object right in a run's folder belongs to the run."""
    return "/" not in name and "\0" not in name and not name.startswith((".", "_"))
