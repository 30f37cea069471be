"""What a run on an object store gains elsewhere while its pages are open."""

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from deepcluster_core.artifacts.mirrored import mirror_of
from deepcluster_core.errors import DeepClusterError
from stages.runs.folder import RunFolder
from stages.runs.states import states_of

if TYPE_CHECKING:  # only runs on a store need it
    from deepcluster_core.artifacts.remote.mirror import Mirror

EVERY_S = 15.0
"""Seconds between two questions, each of which costs a request."""


class StoreWatch:
    """Brings new epochs of a run on an object store to this machine. Idle for a local run."""

    def __init__(self, folder: RunFolder, every_s: float) -> None:
        """Watch a run, which was opened a moment ago.

        Args:
            folder: folder of the run; that of the mirror for a run on a store.
            every_s: the least time in seconds between two questions.
        """
        self._folder = folder
        self._every_s = every_s
        self._asked_s = time.monotonic()
        self._asking = threading.Thread()
        self._mirror = mirror_of(folder.root)

    def ask(self, shown: list[int]) -> None:
        """Ask the store in the background, unless that was done a moment ago, and return at once.

        Args:
            shown: the epochs whose labels are known.
        """
        if self._mirror is None or self._asking.is_alive():
            return
        if time.monotonic() - self._asked_s < self._every_s:
            return
        self._asking = threading.Thread(
            target=self._bring_new_epochs, args=(self._mirror, shown), daemon=True
        )
        self._asking.start()

    def _bring_new_epochs(self, mirror: "Mirror", shown: list[int]) -> None:
        # While the store is away, the pages show what is here.
        with suppress(DeepClusterError):
            mirror.pull_small()
            mirror.forget_epochs()
            if self._folder.epochs("labels") != shown:
                mirror.forget(self._folder.root)
                states_of(self._folder)  # gets the manifests
        self._asked_s = time.monotonic()
