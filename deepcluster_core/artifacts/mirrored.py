"""Artifacts of a run that lives on an object store, as the modules that open files see them.

Such a run has a local mirror with the ordinary layout (see `remote.mirror`). A manifest is compared
with the store once in a process, before it is first read; a large file is fetched when it is first
opened. All functions return at once for a folder that is in no mirror.
"""

import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deepcluster_core.artifacts.locks import lock
from deepcluster_core.errors import ArtifactError, StoreError

if TYPE_CHECKING:  # it imports this package's other modules
    from deepcluster_core.artifacts.remote.mirror import Mirror

MIRRORS = "remote"
"""The folder in the scratch folder that holds all mirrors."""
_IN_A_MIRROR = re.compile(rf"/{MIRRORS}/[0-9a-f]{{16}}/")
"""Part of the path of every mirror, by which a local run is recognised without looking at the disk
or importing anything."""
AT_ONCE = 16
"""Manifests that are compared at the same time: their time is that of waiting for answers."""

_COMPARING: dict[Path, threading.RLock] = {}
"""Locks by which one thread at a time compares the manifest of an artifact."""
_IN_PROGRESS: set[Path] = set()
"""The artifacts whose manifest is just being compared."""
_HELD: list[Path] = []
"""The folders whose lease this process holds."""


def mirror_of(folder: Path) -> "Mirror | None":
    """Return the mirror that a folder is in; None for every local run."""
    if _IN_A_MIRROR.search(str(folder)) is None:
        return None
    from deepcluster_core.artifacts.remote.opening import mirror_of  # noqa: PLC0415

    return mirror_of(folder)


def address_of(path: Path) -> str:
    """Return the URL of a path in a mirror; the path itself, as text, elsewhere."""
    mirror = mirror_of(path)
    if mirror is None or not path.is_relative_to(mirror.root):
        return str(path)
    below = path.relative_to(mirror.root).as_posix()
    return mirror.url if below == "." else f"{mirror.url}/{below}"


def compare(folder: Path) -> None:
    """Make the local manifest of an artifact what the store has, once in a process.

    Raises:
        StoreError: the store is not available.
    """
    mirror = mirror_of(folder)
    if mirror is None or folder == mirror.root:
        return
    if folder in mirror.asked:
        return
    with _COMPARING.setdefault(folder, threading.RLock()):
        # Another thread may have asked meanwhile. This one comes here again within `refresh`.
        if folder in mirror.asked or folder in _IN_PROGRESS:
            return
        _IN_PROGRESS.add(folder)
        try:
            if not mirror.is_known_absent(folder):
                mirror.refresh(folder)
            mirror.asked.add(folder)
        finally:
            _IN_PROGRESS.remove(folder)


def compare_all(folders: Iterable[Path]) -> None:
    """Compare the manifests of several artifacts at the same time.

    Raises:
        StoreError: the store is not available.
    """
    wanted: list[Path] = []
    for folder in folders:
        mirror = mirror_of(folder)
        if mirror is not None and folder not in mirror.asked:
            wanted.append(folder)
    if not wanted:
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="manifests") as pool:
        for _ in pool.map(compare, wanted):
            pass


def forget(root: Path) -> None:
    """Compare the artifacts below a folder again when they are next read, and list new epochs."""
    mirror = mirror_of(root)
    if mirror is not None:
        mirror.forget(root)


def fetched(path: Path) -> Path:
    """Return the path of an artifact's file after getting it from the store, if it is not there.

    Raises:
        ArtifactError: the manifest does not name the file, or the store's file differs from it.
        NoRoomError: there is no room for the file.
        StoreError: the store is not available.
    """
    mirror = mirror_of(path)
    if mirror is not None and not path.exists():
        mirror.fetch(path)
    return path


def end_of(path: Path, size: int, num_bytes: int) -> bytes:
    """Return the last bytes of an artifact's file on the store, without fetching it.

    Args:
        path: path of the file in a mirror.
        size: its size in bytes.
        num_bytes: wanted bytes; of a smaller file, all.

    Raises:
        ArtifactError: the store has no such file.
        StoreError: the store is not available.
    """
    mirror = mirror_of(path)
    assert mirror is not None
    name = path.relative_to(mirror.root).as_posix()
    with suppress(FileNotFoundError):
        found = mirror.store.get_range(name, max(0, size - num_bytes), size)
        assert found is not None  # any version will do
        return found
    raise ArtifactError(
        f"{mirror.url}/{name}: is missing on the store, although its artifact is committed.\n"
        f"  Fix: make the artifact again: deepcluster stage … --force"
    )


def repeat_on_full_disk(folder: Path, work: Callable[[], None]) -> None:
    """Call `work`, which writes to a folder; on a full disk make room in the mirror, and repeat.

    Args:
        folder: where `work` writes.
        work: continues, when it is called again, what it had begun.

    Raises:
        NoRoomError: the disk is full, and no file can be deleted because the store has it.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        work()
    else:
        mirror.repeat_on_full_disk(folder, work)


def copy_on_store(source: Path, target: Path, names: Iterable[str]) -> list[str]:
    """Copy files of a published artifact to another folder of the same run or sweep.

    The store copies them itself; nothing travels, and nothing is written here.

    Args:
        source: folder of the artifact.
        target: the other folder.
        names: names of the files in both.

    Returns:
        The names of the files that were copied: none if that is not possible, for example because
        the folders are in no mirror or in two.
    """
    mirror = mirror_of(source)
    if mirror is None or mirror is not mirror_of(target):
        return []
    here, there = (folder.relative_to(mirror.root).as_posix() for folder in (source, target))
    copied = [*names]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copies") as pool:
        running = [
            pool.submit(mirror.store.copy, f"{here}/{name}", f"{there}/{name}") for name in copied
        ]
        try:
            for one in running:
                one.result()
        except (FileNotFoundError, StoreError):
            # Not every store can do it. Then the caller uploads the files.
            pool.shutdown(wait=False, cancel_futures=True)
            return []
    return copied


def commit(folder: Path, uploaded: Collection[str] = ()) -> None:
    """Publish an artifact that is whole here; call it with a lease.

    Args:
        folder: the artifact.
        uploaded: names of files that are on the store already, and need not be here.

    Raises:
        ArtifactError: another process has committed a different artifact.
        StoreError: the store is not available.
    """
    mirror = mirror_of(folder)
    if mirror is not None:
        mirror.repeat_on_full_disk(folder, lambda: mirror.commit(folder, uploaded))


def refresh_small(path: Path) -> None:
    """Get what has changed on the store of the files that lie beside a run's artifacts."""
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.pull_small()


def publish_small(path: Path) -> None:
    """Upload a file of a run that belongs to no artifact, such as its report, if it has changed.

    Raises:
        ArtifactError: another process has changed the file on the store meanwhile.
        StoreError: the store is not available.
    """
    mirror = mirror_of(path)
    if mirror is not None and path.exists():
        mirror.push_small([path.relative_to(mirror.root).as_posix()])


def is_held(folder: Path) -> bool:
    """Return whether this process holds the lease of a folder, or of one that it is in."""
    return any(folder.is_relative_to(held) for held in _HELD)


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """Hold the lease of a folder of a mirror, and with it that of everything inside.

    What other processes have made before is seen afterwards. Does nothing for local runs.

    Raises:
        StoreError: the store is not available.
    """
    mirror = mirror_of(folder)
    if mirror is None or is_held(folder):
        yield
        return
    with mirror.lease(folder):
        forget(folder)
        _HELD.append(folder)
        try:
            yield
        finally:
            _HELD.remove(folder)


@contextmanager
def hold(folder: Path, *, within: Path | None = None) -> Iterator[None]:
    """Hold the lock of an artifact's folder and, in a mirror, the lease on the store.

    Args:
        folder: folder of the artifact.
        within: the folder whose lease is taken, with all that is in it; None for `folder` itself.

    Raises:
        ArtifactError: the lock file may not be opened, or the store is not available.
    """
    with lock(folder), lease(within or folder):
        yield


@contextmanager
def using(folders: Iterable[Path]) -> Iterator[None]:
    """Keep the files of artifacts that are read from being deleted to make room for others."""
    with ExitStack() as stack:
        for folder in folders:
            mirror = mirror_of(folder)
            if mirror is not None:
                stack.enter_context(mirror.use(folder))
        yield
