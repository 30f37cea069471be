"""The claim of one process on a run that lives on an object store. Nothing happens for other runs.

One lease for a whole run takes fewer requests than one for each artifact, and the stages of a run
depend on each other anyway: a second process waits until the first one ends, and then finds
everything made.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from deepcluster_core.artifacts.mirrored import hold, is_held, lease, mirror_of
from stages.index import index
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder

KINDS = (index.kind, *EPOCH_KINDS)
"""The artifacts that a run consists of. What is made from a run, such as evaluations, has leases of
its own, so that it can be made while the run goes on."""


class Claim:
    """The claim of this process on a run."""

    def __init__(self, folder: RunFolder) -> None:
        self._root = folder.root
        self._lease = ExitStack()
        self._num_blocks = 0

    @property
    def is_of_others(self) -> bool:
        """Whether another process may be making the run."""
        return mirror_of(self._root) is not None and not is_held(self._root)

    def begin(self) -> None:
        """Keep other processes from making the run, until a block ends; wait for those that do.

        Raises:
            ConfigError: the store ignores conditions, so that two processes could not exclude each
                other.
            StoreError: the store is not available.
        """
        mirror = mirror_of(self._root)
        if mirror is not None and not is_held(self._root):
            mirror.check_store()
            self._lease.enter_context(lease(self._root))
            mirror.pull_small()

    def end(self) -> None:
        """Let other processes make the run."""
        self._lease.close()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Hold the claim during the block; blocks may be nested."""
        self._num_blocks += 1
        try:
            self.begin()
            yield
        finally:
            self._num_blocks -= 1
            if self._num_blocks == 0:
                self.end()

    def hold(self, out: Path) -> AbstractContextManager[None]:
        """Hold the lock and the lease of an artifact: that of the run, if it is one of its own."""
        is_inside = out.is_relative_to(self._root)
        is_own = is_inside and out.relative_to(self._root).parts[0] in KINDS
        return hold(out, within=self._root if is_own else out)

    def complete(self, out: Path) -> None:
        """Publish an artifact that could not be published when it was made.

        Raises:
            StoreError: the store is not available.
        """
        mirror = mirror_of(out)
        if mirror is None or not mirror.is_unpublished(out):
            return
        with self.hold(out):
            if mirror.is_unpublished(out):
                mirror.complete(out)
