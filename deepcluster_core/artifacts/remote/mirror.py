"""The mirror: the local folder of a run that lives on an object store.

Order of writes on the store: lease, DELETE old manifest, PUT files, PUT manifest conditionally,
release. Order of reads: manifest, then files. A folder without a manifest is not an artifact.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.manifest import MANIFEST, Manifest, read_manifest
from deepcluster_core.artifacts.remote.downloads import delete_artifact, download_files, is_there
from deepcluster_core.artifacts.remote.known_objects import KnownObjects
from deepcluster_core.artifacts.remote.lease import Lease, Times
from deepcluster_core.artifacts.remote.pins import pinned
from deepcluster_core.artifacts.remote.room import KNOWN, STATE, Room, mark_used
from deepcluster_core.artifacts.remote.run_files import RunFiles
from deepcluster_core.artifacts.remote.store import UNCHANGED, Store
from deepcluster_core.artifacts.remote.uploads import Uploads, parse_manifest, put_manifest
from deepcluster_core.errors import ArtifactError

log = logging.getLogger(__name__)


class Mirror:
    """A run on an object store and the local folder with the same layout.

    `folder` is always the local folder of an artifact, below `root`. All methods raise `StoreError`
    if the store is not available; the same command can go on later.
    """

    def __init__(self, url: str, root: Path, room: Room, times: Times | None = None) -> None:
        """Use `open_mirror` or `mirror_of`, which make and find the folders.

        Args:
            url: normal URL of the run, without credentials.
            root: the run's local folder.
            room: where all mirrors of the machine are.
            times: of leases.
        """
        self.root = root
        self.url = url
        self.store = Store(url)
        self._known = KnownObjects(root.parent / KNOWN)
        self._run_files = RunFiles(self.store, root, self._known)
        self.room = room
        self._times = times or Times()
        self._uploads: dict[str, Uploads] = {}
        self._leases: dict[str, Lease] = {}
        self._absent: set[str] = set()
        """Manifests that the store did not have when last asked."""
        self.asked: set[Path] = set()
        """Folders that were refreshed since they were last forgotten; see `mirrored.compare`."""
        self._epochs: dict[str, list[int]] = {}
        self._lock = threading.RLock()

    def check_store(self) -> None:
        """Check, once on each machine, that the store can be written and honours conditions.

        Raises:
            ConfigError: the store ignores conditions.
        """
        checked = self.root.parent / STATE / "checked"
        if not checked.exists():
            self.store.probe()
            checked.parent.mkdir(parents=True, exist_ok=True)
            checked.touch()

    def refresh(self, folder: Path) -> None:
        """Make the local manifest of an artifact what the store has; one conditional GET.

        A local artifact that the store no longer has, or has in another version, is deleted. One
        that was committed here but could not be published yet is kept: see `is_unpublished`.
        """
        self.repeat_on_full_disk(folder, lambda: self._refresh(folder))
        self.asked.add(folder)

    def _refresh(self, folder: Path) -> None:
        name = self._manifest_name(folder)
        local = _bytes_of(folder / MANIFEST)
        known = self._known.get(name)
        is_published = local is not None and self._known.is_published(name, local)
        # If the local manifest was lost, its contents are needed again.
        etag = known.etag if known is not None and is_published else ""
        found = self.store.get_if_changed(name, etag)
        if found is UNCHANGED:
            return
        self._absent.discard(name)
        if found is not None:
            self._take(folder, *found)
            return
        if is_published:
            log.warning("%s/%s: was deleted on the store; deleted here", self.url, name)
            self._replace_local(folder, None)
        self._known.forget(name)
        self._absent.add(name)

    def _take(self, folder: Path, body: bytes, etag: str) -> None:
        """Make a manifest of the store the local one."""
        name = self._manifest_name(folder)
        if _bytes_of(folder / MANIFEST) != body:
            manifest = parse_manifest(f"{self.url}/{name}", body)
            self._replace_local(folder, manifest)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / MANIFEST, body)
        self._known.put(name, body, etag)

    def _replace_local(self, folder: Path, manifest: Manifest | None) -> None:
        """Delete the local artifact, except for files that a new manifest names as well."""
        try:
            former = read_manifest(folder)
        except ArtifactError:
            former = None
        # Without a manifest, what is left of the artifact cannot be mistaken for a whole one.
        (folder / MANIFEST).unlink(missing_ok=True)
        delete_artifact(folder, former, keep=manifest)

    def repeat_on_full_disk(self, folder: Path, work: Callable[[], None]) -> None:
        """Call `work`; if the disk becomes full, evict what may be evicted and call it again.

        Raises:
            NoRoomError: the disk is full, and there is nothing more to evict.
        """
        self.room.repeat_on_full_disk(folder, work)

    def is_unpublished(self, folder: Path) -> bool:
        """Return whether the artifact is whole here, but its commit to the store failed."""
        local = _bytes_of(folder / MANIFEST)
        return local is not None and not self._known.is_published(
            self._manifest_name(folder), local
        )

    def complete(self, folder: Path) -> None:
        """Upload and commit an artifact whose commit did not succeed; call it with a lease."""
        if self.is_unpublished(folder):
            self.commit(folder)

    def fetch(self, path: Path) -> None:
        """Get a file of an artifact, or all files below a folder such as features.zarr.

        No-op for what is there. Other files are downloaded to `….part`, compared with the sha256 of
        the manifest, given its mtime and renamed.

        Raises:
            ArtifactError: the manifest does not name the file, or the store's file differs from it.
            NoRoomError: there is no room for it, also after evicting what can be fetched again.
        """
        folder = self._artifact_of(path)
        manifest = read_manifest(folder)
        names = _names_below(path.relative_to(folder).as_posix(), manifest.files)
        if not names and path != folder:
            raise ArtifactError(
                f"{path}: is not named by the manifest of {self.url}/{self._name_of(folder)}.\n"
                f"  Fix: run the stage that makes it again."
            )
        missing: list[str] = []
        for name in names:
            if is_there(folder / name, manifest.files[name]):
                mark_used(folder / name)
            else:
                missing.append(name)
        if missing and self.is_unpublished(folder):
            raise ArtifactError(
                f"{folder}: files are missing that are not on the object store yet.\n"
                f"  Fix: delete the folder; the same command then makes the artifact again."
            )
        if missing:
            download_files(
                self.store, folder, self._name_of(folder), manifest, missing, room=self.room
            )

    @contextmanager
    def use(self, folder: Path) -> Iterator[None]:
        """Keep the files of an artifact that is read from being evicted, by any process."""
        with pinned(self.root.parent, self._name_of(folder)):
            yield

    def withdraw(self, folder: Path) -> None:
        """Delete the artifact's manifest on the store, before it is made anew.

        Without a request if `refresh` found none; `commit` notices if there is one since.
        """
        self._check_lease(folder)
        name = self._manifest_name(folder)
        if name not in self._absent:
            self._known.forget(name)
            self.store.delete([name])

    def publish(self, folder: Path, names: Sequence[str]) -> None:
        """Upload files that are whole, in the background; errors are raised by `commit`.

        Files that an interrupted attempt has uploaded are not uploaded again.

        Raises:
            LeaseLostError: another process has taken over the artifact.
        """
        self._check_lease(folder)
        self._uploads_of(folder).begin(names)

    def flush(self, folder: Path) -> None:
        """Wait until the files that this process has published are on the store.

        For ranks that do not commit the artifact themselves.
        """
        self._uploads_of(folder).flush()
        self._end_uploads(self._name_of(folder))

    def commit(self, folder: Path, uploaded: Collection[str] = ()) -> None:
        """Upload all files of the local manifest that were not published, wait, then the manifest.

        If another process has committed an artifact with the same key, that one is used.

        Args:
            folder: the artifact.
            uploaded: names of files that other ranks have published and flushed.

        Raises:
            ArtifactError: another process has committed a different artifact.
            LeaseLostError: another process has taken over the artifact.
        """
        self._check_lease(folder)
        name = self._name_of(folder)
        manifest = read_manifest(folder)
        uploads = self._uploads_of(folder)
        if not manifest.pruned:
            uploads.finish(manifest, uploaded)
        # The uploads may have taken hours.
        self._check_lease(folder)
        known = self._known.get(self._manifest_name(folder))
        body = (folder / MANIFEST).read_bytes()
        etag = None if known is None else known.etag
        self._absent.discard(self._manifest_name(folder))
        self._take(folder, *put_manifest(self.store, name, body, etag))
        self._known.forget_uploads(name)
        self._end_uploads(name)
        self.room.trim()

    def _uploads_of(self, folder: Path) -> Uploads:
        name = self._name_of(folder)
        with self._lock:
            if name not in self._uploads:
                self._uploads[name] = Uploads(self.store, folder, name, self._known)
            return self._uploads[name]

    def _end_uploads(self, leased: str) -> None:
        """End the uploads of an artifact, or of all in a folder."""
        with self._lock:
            names = [name for name in self._uploads if _is_within(name, leased)]
            ended = [self._uploads.pop(name) for name in names]
        for uploads in ended:
            uploads.close()

    @contextmanager
    def lease(self, folder: Path) -> Iterator[bool]:
        """Hold the artifact's lease on the store; wait while another process holds it.

        The lease of the run's folder, or of another with artifacts in it, stands for all of them.
        Yields whether it waited, or took over: then `refresh` again, because the artifact may have
        been made meanwhile.
        """
        name = self._name_of(folder)
        lease = Lease(self.store, name, self._times)
        with ExitStack() as stack:
            if name:
                stack.enter_context(self.use(folder))
            had_holder = lease.acquire()
            self.forget_epochs()
            self._leases[name] = lease
            try:
                yield had_holder
            finally:
                self._end_uploads(name)
                del self._leases[name]
                lease.release()

    def _check_lease(self, folder: Path) -> None:
        # A rank publishes its files under the lease of the process that has started it.
        name = self._name_of(folder)
        for leased, lease in [*self._leases.items()]:
            if _is_within(name, leased):
                lease.check()

    def forget(self, folder: Path) -> None:
        """Ask the store again, when it is next needed, for what it has in a folder of the run."""
        for asked in [*self.asked]:
            if asked.is_relative_to(folder):
                self.asked.discard(asked)
        self.forget_epochs()

    def forget_epochs(self) -> None:
        """List again, when it is next needed, which epochs the store has."""
        self._epochs.clear()

    def is_known_absent(self, folder: Path) -> bool:
        """Return whether the store has no such epoch, by the list of `epochs`, nor this machine.

        Then `refresh` is not needed, and `withdraw` makes no request.
        """
        name, _, digits = folder.name.partition("=")
        if name != "epoch" or not digits.isdecimal() or folder.exists():
            return False
        if int(digits) in self.epochs(self._name_of(folder.parent)):
            return False
        self._absent.add(self._manifest_name(folder))
        return True

    def epochs(self, kind: str) -> list[int]:
        """Return the epochs that the store has folders of, ascending; listed once for each kind.

        They are listed again after `forget`, and when a lease was acquired: another process may
        have made some.
        """
        if kind not in self._epochs:
            folders, _ = self.store.list_folder(kind)
            names = [folder.removeprefix("epoch=") for folder in folders if "epoch=" in folder]
            self._epochs[kind] = sorted(int(name) for name in names if name.isdecimal())
        return self._epochs[kind]

    def pull_small(self) -> None:
        """Get files right in the run's folder, such as config.yaml, that changed on the store.

        Raises:
            ArtifactError: a file that people edit has changed in both places.
        """
        self.repeat_on_full_disk(self.root, self._run_files.pull)

    def push_small(self, names: Sequence[str]) -> None:
        """Upload files of the run beside its artifacts, if they changed.

        Raises:
            ArtifactError: another process has changed the file on the store meanwhile.
        """
        self._run_files.push(names)

    def prune(self, folder: Path) -> None:
        """Mark the manifest on the store as pruned, then delete the files there.

        The local manifest becomes the same; local files are left to the caller.

        Raises:
            ArtifactError: there is no such artifact, or another process has replaced it.
        """
        name = self._manifest_name(folder)
        found = self._known_manifest(folder) or self.store.get(name)
        if found is None:
            return
        manifest = parse_manifest(f"{self.url}/{name}", found[0])
        if not manifest.pruned:
            pruned = manifest.model_copy(update={"pruned": True}).sealed()
            body = pruned.model_dump_json(indent=2).encode()
            found = put_manifest(self.store, self._name_of(folder), body, found[1])
            write_atomically(folder / MANIFEST, found[0])
            self._known.put(name, *found)
            manifest = parse_manifest(f"{self.url}/{name}", found[0])
        if manifest.pruned:  # another process may have made it anew meanwhile
            self.store.delete([f"{self._name_of(folder)}/{file}" for file in manifest.files])

    def _known_manifest(self, folder: Path) -> tuple[bytes, str] | None:
        """Return the manifest that the store had when last asked, and its ETag, without asking."""
        name, local = self._manifest_name(folder), _bytes_of(folder / MANIFEST)
        known = self._known.get(name)
        if known is None or local is None or not self._known.is_published(name, local):
            return None
        return local, known.etag

    def _artifact_of(self, path: Path) -> Path:
        """Return the folder of the artifact that a path lies in."""
        for folder in (path, *path.parents):
            if folder == self.root:
                break
            if (folder / MANIFEST).exists():
                return folder
        raise ArtifactError(
            f"{path}: lies in no artifact of {self.url}.\n"
            f"  Fix: run the stage that makes it; `deepcluster show RUN` lists what a run has."
        )

    def _name_of(self, folder: Path) -> str:
        """Return the name of a folder on the store, which is empty for the run."""
        name = Path(os.path.abspath(folder)).relative_to(self.root).as_posix()  # noqa: PTH100
        return "" if name == "." else name

    def _manifest_name(self, folder: Path) -> str:
        return f"{self._name_of(folder)}/{MANIFEST}"


def _is_within(name: str, folder: str) -> bool:
    """Return whether a folder of the run is another one, or lies in it."""
    return folder in ("", name) or name.startswith(f"{folder}/")


def _names_below(wanted: str, names: Collection[str]) -> list[str]:
    """Return the name that is wanted, or those in the folder of this name; `.` stands for all."""
    if wanted in names:
        return [wanted]
    return [name for name in names if wanted == "." or name.startswith(f"{wanted}/")]


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
