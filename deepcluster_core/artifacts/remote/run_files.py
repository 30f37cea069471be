"""What lies beside the artifacts of a run on the store: small files, and folders of evaluations."""

from collections.abc import Sequence
from pathlib import Path

from deepcluster_core.artifacts.remote.known_objects import KnownObjects
from deepcluster_core.artifacts.remote.small_files import SmallFiles, is_small_file
from deepcluster_core.artifacts.remote.store import Store, StoredObject, is_same_version

EVALUATIONS = "evaluations"
EDITED = ".csv"
"""Suffix of files that people edit, so that no change may be lost. All others, such as the report,
are made anew from artifacts and the recipe, so that the last one wins."""


class RunFiles:
    """The files beside the artifacts of a run or sweep."""

    def __init__(self, store: Store, root: Path, known: KnownObjects) -> None:
        self._store, self._root, self._known = store, root, known
        self._small = SmallFiles(store, root, known)

    def pull(self, folder: str = "") -> None:
        """Get files that changed on the store.

        In the folder of a sweep, also those of its runs. The folders of evaluations are made, so
        that they are found as those of a run on this machine.

        Raises:
            ArtifactError: a file that people edit has changed in both places.
        """
        folders, objects = self._store.list_folder(folder)
        for found in objects:
            is_ours = is_small_file(found.name.rpartition("/")[2])
            if is_ours and not self._is_current(found):
                self._small.pull([found.name], update=_is_made(found.name))
        for name in folders:
            below = f"{folder}/{name}" if folder else name
            if "=" in name:
                self.pull(below)
            elif name == EVALUATIONS:
                for kind in self._store.list_folder(below)[0]:
                    (self._root / below / kind).mkdir(parents=True, exist_ok=True)

    def push(self, names: Sequence[str]) -> None:
        """Upload files that differ from what the store had when last asked.

        Raises:
            ArtifactError: a file that people edit has changed on the store as well.
        """
        for name in names:
            self._small.push([name], update=_is_made(name))

    def _is_current(self, listed: StoredObject) -> bool:
        known = self._known.get(listed.name)
        is_same = known is not None and is_same_version(known.etag, listed.etag)
        return is_same and (self._root / listed.name).exists()


def _is_made(name: str) -> bool:
    return not name.endswith(EDITED)
