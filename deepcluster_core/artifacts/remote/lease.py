"""A lease: an object on the store by which one process at a time makes an artifact.

It expires `LEASE_S` after the store has last seen it written, by the store's own clock. Its holder
writes it again every `HEARTBEAT_S` under the condition that nobody else has; a holder that is
refused has lost the artifact and must publish no more.
"""

import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from deepcluster_core.artifacts.remote.store import Store, StoredObject
from deepcluster_core.errors import LeaseLostError, StoreError

log = logging.getLogger(__name__)

LEASE = "_lease"
"""Name of the object in an artifact's folder. Readers of tables skip names that begin with `_`."""
LEASE_S = 90.0
HEARTBEAT_S = 30.0
LOOK_S = 5.0
"""Seconds between two looks at a lease that another process holds."""
CLOCK_STEP_S = 1.0
"""The times of objects are whole seconds on most stores."""


@dataclass(frozen=True)
class Times:
    """How long a lease lasts and how often it is renewed and looked at, in seconds."""

    lease_s: float = LEASE_S
    heartbeat_s: float = HEARTBEAT_S
    look_s: float = LOOK_S


class Lease:
    """A lease that this process acquires, renews in a thread, and releases."""

    def __init__(self, store: Store, folder: str, times: Times | None = None) -> None:
        self.attempt = uuid4().hex
        self.name = f"{folder}/{LEASE}" if folder else LEASE  # of the whole run
        self._where = f"{store.url}/{folder}".rstrip("/")
        self._store, self._times = store, times or Times()
        self._beats = 0
        self._etag = ""
        self._renewed = 0.0
        """When the last renewal began, by the monotonic clock."""
        self._is_lost = False
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="lease")

    def acquire(self) -> bool:
        """Wait until no other process holds the lease, take it and keep it.

        Returns:
            Whether another process held it, or had left it behind.

        Raises:
            StoreError: the store cannot be reached.
        """
        waiting = _Waiting(self._store, self.name, self._times)
        while not self._try_to_take(waiting):
            waiting.pause()
        self._heart.start()
        return waiting.had_holder

    def _try_to_take(self, waiting: "_Waiting") -> bool:
        self._renewed = time.monotonic()
        body = self._body()
        etag = self._store.create(self.name, body)
        if etag is None:
            found = self._store.read(self.name)
            waiting.had_holder |= found is None or found[0] != body
            if found is None:  # released meanwhile
                return False
            if found[0] == body:  # the response was lost
                etag = found[1].etag
            elif waiting.is_over(*found):
                self._renewed = time.monotonic()
                etag = self._replaced(found[1].etag)
        self._etag = etag or ""
        return etag is not None

    def _replaced(self, etag: str) -> str | None:
        """Write the lease if it still has this ETag; return the new one, or None if it changed."""
        # Each body is different, or else the object would have the same ETag as before.
        self._beats += 1
        body = self._body()
        written = self._store.replace(self.name, body, etag)
        if written is None:
            found = self._store.get(self.name)
            if found is not None and found[0] == body:  # the response was lost
                return found[1]
        return written

    def _body(self) -> bytes:
        content = {"attempt": self.attempt, **this_process(), "beats": self._beats}
        return json.dumps(content).encode()

    def _beat(self) -> None:
        while not self._end.wait(self._times.heartbeat_s):
            began = time.monotonic()
            try:
                etag = self._replaced(self._etag)
            except StoreError:
                continue  # `check` looks at the clock
            if self._end.is_set():
                return
            if etag is None:
                self._is_lost = True
                return
            self._etag, self._renewed = etag, began

    def check(self) -> None:
        """Raise LeaseLostError if another process has, or may have, taken over the artifact."""
        has_expired = time.monotonic() > self._renewed + self._times.lease_s
        if not self._is_lost and not has_expired:
            return
        cause = (
            "another process has taken it over, because the lease of this one was not renewed in "
            "time"
            if self._is_lost
            else f"the store could not be reached for {self._times.lease_s:.0f} s"
        )
        raise LeaseLostError(
            f"{self._where}: this process may no longer publish the artifact.\n"
            f"  Cause: {cause}\n"
            f"  Fix:   run the same command again; it uses what the other process has made."
        )

    def release(self) -> None:
        """Stop renewing the lease, and delete it if it is still held."""
        self._end.set()
        self._heart.join()
        fresh_s = self._times.lease_s - self._times.heartbeat_s
        is_fresh = time.monotonic() < self._renewed + fresh_s
        # Without a condition, deleting could hit the lease of a process that has taken over.
        if not self._is_lost and is_fresh:
            with suppress(StoreError):  # it expires by itself
                self._store.delete([self.name])


class _Waiting:
    """Waits for a lease of another process, and finds out when it is over."""

    def __init__(self, store: Store, name: str, times: Times) -> None:
        self._store, self._name, self._times = store, name, times
        self._clock_offset_s: float | None = None
        """Unix time of the store minus the monotonic clock."""
        self._has_warned = False
        self.had_holder = False

    def is_over(self, body: bytes, found: StoredObject) -> bool:
        """Return whether a lease has expired, or its process on this machine has ended."""
        holder = _parsed(body)
        if _has_ended(holder):
            return True
        age_s = self._now() - found.last_modified.timestamp()
        if age_s > self._times.lease_s + CLOCK_STEP_S:
            return True
        if not self._has_warned:
            self._has_warned = True
            folder = self._name.rpartition("/")[0]
            log.warning(
                "%s: process %s on %s makes this %s; waiting for it",
                f"{self._store.url}/{folder}".rstrip("/"),
                holder.get("pid", "?"),
                holder.get("host", "?"),
                "artifact" if folder else "run",
            )
        return False

    def pause(self) -> None:
        time.sleep(self._times.look_s)

    def _now(self) -> float:
        """Return the time by the store's clock, from one object that is written for it."""
        if self._clock_offset_s is None:
            name = f"{self._name}-clock-{uuid4().hex}"
            self._store.put(name, b"")
            now = time.monotonic()
            found = self._store.head(name)
            self._store.delete([name])
            if found is None:
                return 0.0  # nothing expires; the next look asks again
            self._clock_offset_s = found.last_modified.timestamp() - now
        return time.monotonic() + self._clock_offset_s


def this_process() -> dict[str, Any]:
    """Return what identifies this process; `machine` differs after a restart and in containers."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "machine": _machine(),
        "started": _started(pid),
    }


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process has started, in ticks since the boot; empty if it does not run."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    # The name in brackets may contain anything.
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _has_ended(holder: dict[str, Any]) -> bool:
    """Return whether a holder was a process of this machine that runs no more."""
    machine, pid = holder.get("machine"), holder.get("pid")
    if not machine or machine != _machine() or not isinstance(pid, int):
        return False
    return _started(pid) != holder.get("started")


def _parsed(body: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    return {}
