"""The mirror: the local folder of a run that lives on an object store.

Order of writes on the store: lease, DELETE old manifest, PUT files, PUT manifest conditionally,
release. Order of reads: manifest, then files. A folder without manifest is no artifact.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class Mirror:
    """A run on an object store and the local folder with the same layout.

    `folder` is always the local folder of an artifact, below `root`. All methods raise `StoreError`
    if the store is not available; the same command can go on later.
    """

    root: Path
    """The run's local folder."""
    url: str
    """Normal URL of the run, without credentials."""

    def refresh(self, folder: Path) -> None:
        """Make the local manifest of an artifact what the store has; one conditional GET.

        A local artifact that the store no longer has, or has in another version, is deleted. One that
        was committed here but could not be published yet is kept: see `is_unpublished`.
        """
        raise NotImplementedError

    def is_unpublished(self, folder: Path) -> bool:
        """Return whether the artifact is whole here while its commit on the store did not succeed."""
        raise NotImplementedError

    def complete(self, folder: Path) -> None:
        """Publish what of an unpublished artifact is missing, and commit it; call it with a lease."""
        raise NotImplementedError

    def fetch(self, path: Path) -> None:
        """Get a file of an artifact, or all files below a folder such as features.zarr.

        No-op for what is there. Other files are downloaded to `….part`, compared with the sha256 of
        the manifest, given its mtime and renamed.

        Raises:
            ArtifactError: the manifest does not name the file, or the store's file differs from it.
            NoRoomError: there is no room for it, also after evicting what can be fetched again.
        """
        raise NotImplementedError

    @contextmanager
    def use(self, folder: Path) -> Iterator[None]:
        """Keep the files of an artifact that is read from being evicted, by any process."""
        raise NotImplementedError

    def withdraw(self, folder: Path) -> None:
        """Delete the artifact's manifest on the store, before it is made anew."""
        raise NotImplementedError

    def publish(self, folder: Path, names: Sequence[str]) -> None:
        """Upload files that are whole, in the background; errors are raised by `commit`.

        Files that an interrupted attempt has uploaded are not uploaded again.

        Raises:
            LeaseLostError: another process has taken over the artifact.
        """
        raise NotImplementedError

    def commit(self, folder: Path) -> None:
        """Upload all files of the local manifest that were not published, wait, then the manifest.

        If another process has committed an artifact with the same key, that one is used.

        Raises:
            ArtifactError: another process has committed a different artifact.
            LeaseLostError: another process has taken over the artifact.
        """
        raise NotImplementedError

    @contextmanager
    def lease(self, folder: Path) -> Iterator[None]:
        """Hold the artifact's lease on the store; wait while another process holds it."""
        raise NotImplementedError

    def epochs(self, kind: str) -> list[int]:
        """Return the epochs that the store has folders of, ascending; listed once for each kind."""
        raise NotImplementedError

    def pull_small(self) -> None:
        """Get the files right in the run's folder, such as config.yaml, that changed on the store."""
        raise NotImplementedError

    def push_small(self, names: Sequence[str]) -> None:
        """Upload files of the run beside its artifacts, if they changed.

        Raises:
            ArtifactError: another process has changed the file on the store meanwhile.
        """
        raise NotImplementedError

    def prune(self, folder: Path) -> None:
        """Mark the manifest on the store as pruned, then delete the files there."""
        raise NotImplementedError


def mirror_of(folder: Path) -> Mirror | None:
    """Return the mirror that a folder is in; None for every local run. Cached."""
    raise NotImplementedError


def open_mirror(url: str, scratch: Path, scratch_bytes: int | None) -> Mirror:
    """Return the mirror of a run, making its local folder below `scratch` if needed.

    Args:
        url: the run's URL.
        scratch: local folder for the mirrors of all runs.
        scratch_bytes: most bytes of the mirrors below `scratch`; None for no limit.

    Raises:
        ConfigError: the URL is not one of an object store.
    """
    raise NotImplementedError
