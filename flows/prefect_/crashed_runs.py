"""Flow runs whose process was killed: nobody told Prefect, so the next run in the folder does.

Each flow run has a file in its run's folder that its process holds locked. The kernel lets go of
the lock when the process dies, however it does: a file that can be locked is of a dead one.
"""

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from uuid import UUID
from weakref import WeakValueDictionary

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

ALIVE = "alive"
KILLED = Crashed(message="Its process was killed, as the next run in the same folder noticed.")


class Alive:
    """Tells, as long as it is there, that the process of a flow run lives."""

    def __init__(self, path: Path) -> None:
        """Lock the file.

        Raises:
            OSError: it cannot be made, or the file system has no locks.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:  # an unlocked mark would say that its process is dead
            path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1
            raise

    def __del__(self) -> None:
        """Let go of it."""
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)


_MARKING = threading.Lock()
_MARKS: WeakValueDictionary[Path, Alive] = WeakValueDictionary()
"""Those of this process. A flow run that evaluates a sweep opens several runs, whose records may
lie in one folder."""


def mark_alive(records: Path) -> Alive | None:
    """Return the mark of this flow run; None outside of one, and where no mark can be made.

    Args:
        records: folder that Prefect's records of the run lie in.
    """
    if flow_run.id is None:
        return None
    path = records / ALIVE / flow_run.id
    with _MARKING:
        # A second lock on the file would wait for the first one, which this process holds.
        if (mark := _MARKS.get(path)) is not None:
            return mark
        with suppress(OSError):  # only whether a kill is noticed depends on it
            mark = _MARKS[path] = Alive(path)
        return mark


def bury_dead(records: Path) -> int:
    """Have Prefect show the flow runs of dead processes as Crashed; return how many there were.

    Marks of other users are left alone: their flow runs are known to their own servers.

    Args:
        records: folder that Prefect's records of the run lie in.
    """
    dead = [path for path in (records / ALIVE).glob("*") if _is_own(path) and _is_dead(path)]
    if not dead:
        return 0
    with get_client(sync_client=True) as client:
        buried = sum(_bury(UUID(path.name), client) for path in dead)
    for path in dead:
        with suppress(OSError):
            path.unlink()
    return buried


def _is_own(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _is_dead(path: Path) -> bool:
    with suppress(OSError), path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False


def _bury(run_id: UUID, client: SyncPrefectClient) -> bool:
    """Mark a flow run that has not ended, and the tasks that it was at; tell whether it was one."""
    try:
        state = client.read_flow_run(run_id).state
    except ObjectNotFound:
        return False  # recorded by another server
    if state is not None and state.is_final():
        return False
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    for task_run in client.read_task_runs(flow_run_filter=of_run):
        if task_run.state is None or not task_run.state.is_final():
            client.set_task_run_state(task_run.id, KILLED, force=True)
    client.set_flow_run_state(run_id, KILLED, force=True)
    return True
