"""Mark flow runs whose process was killed as Crashed; the next run in the same folder does so.

Each flow run has a file in its run's folder, which its process keeps locked. The kernel releases
the lock when the process ends for whatever reason, so a file that can be locked belongs to a dead
process.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path
from uuid import UUID
from weakref import WeakValueDictionary

from filelock import lock_descriptor
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

ALIVE = "alive"
KILLED = Crashed(message="Its process was killed, as the next run in the same folder noticed.")


class Alive:
    """A mark that the process of a flow run is alive, for as long as this object exists."""

    def __init__(self, path: Path) -> None:
        """Create and lock the file.

        Raises:
            OSError: the file cannot be created, or the file system has no locks.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            lock_descriptor(self._file)
        except OSError:  # an unlocked mark would mean that its process is dead
            path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1
            raise

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)


_MARKING = threading.Lock()
_MARKS: WeakValueDictionary[Path, Alive] = WeakValueDictionary()
"""The marks of this process by their file. A flow run that evaluates a sweep opens several runs,
whose records can be in one folder."""


def mark_alive(records: Path) -> Alive | None:
    """Mark this flow run as alive.

    Args:
        records: folder with Prefect's records of the run.

    Returns:
        The mark; None outside a flow run, or if no mark can be made.
    """
    if flow_run.id is None:
        return None
    path = records / ALIVE / flow_run.id
    with _MARKING:
        # A second lock on the file would wait for ever for the first, which this process holds.
        mark = _MARKS.get(path)
        if mark is not None:
            return mark
        with suppress(OSError):  # without a mark, only a kill would go unnoticed
            mark = Alive(path)
            _MARKS[path] = mark
        return mark


def mark_crashed_runs(records: Path) -> int:
    """Mark the flow runs of dead processes as Crashed in Prefect; return how many there were.

    The marks of other users are left alone, because only their own servers know their flow runs.

    Args:
        records: folder with Prefect's records of the run.
    """
    marks = (records / ALIVE).glob("*")
    dead = [path for path in marks if _is_own(path) and _is_dead(path)]
    if not dead:  # do not connect to the server
        return 0
    num_marked = 0
    with get_client(sync_client=True) as client:
        for path in dead:
            if _mark_crashed(UUID(path.name), client):
                num_marked += 1
    # A mark is deleted only after Prefect has recorded the crash, so that none is lost.
    for path in dead:
        with suppress(OSError):
            path.unlink()
    return num_marked


def _is_own(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:  # another process has deleted it meanwhile
        return False


def _is_dead(path: Path) -> bool:
    """Return whether the process of a mark has ended, so that the mark can be locked."""
    # Open for writing, because NFS only locks such files.
    with suppress(OSError), path.open("r+b") as file:
        return lock_descriptor(file.fileno(), blocking=False)
    return False


def _mark_crashed(run_id: UUID, client: SyncPrefectClient) -> bool:
    """Mark a flow run and its unfinished tasks as Crashed; return False if it had ended already."""
    try:
        state = client.read_flow_run(run_id).state
    except ObjectNotFound:
        return False  # a different server has its record
    if _has_ended(state):
        return False
    # Tasks first: once the flow run has ended, the next run no longer looks at them.
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    for task_run in client.read_task_runs(flow_run_filter=of_run):
        if not _has_ended(task_run.state):
            client.set_task_run_state(task_run.id, KILLED, force=True)
    client.set_flow_run_state(run_id, KILLED, force=True)
    return True


def _has_ended(state: State | None) -> bool:
    return state is not None and state.is_final()
