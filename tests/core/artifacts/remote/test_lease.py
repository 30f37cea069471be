"""Leases between processes and machines, with shortened times."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepcluster_core.artifacts.remote.lease import LEASE_S, Lease, Times, this_process
from deepcluster_core.artifacts.remote.store import Store
from deepcluster_core.errors import LeaseLostError
from tests.support.object_stores import ObjectStoreServer, environment_of
from tests.support.store_proxy import Fault, StoreProxy
from tests.support.timeouts import WITHIN_S

FOLDER = "labels/epoch=0003"
SHORT = Times(lease_s=2.0, heartbeat_s=0.2, look_s=0.1)
"""For leases that end during a test."""
LASTING = Times(lease_s=60.0, heartbeat_s=0.2, look_s=0.1)
"""For leases that must not, on the slowest machine."""
ALWAYS = 1_000_000

HOLD = """
import sys, time
from deepcluster_core.artifacts.remote.lease import Lease, Times
from deepcluster_core.artifacts.remote.store import Store
lease = Lease(Store(sys.argv[1]), sys.argv[2], Times(lease_s=2.0, heartbeat_s=0.2, look_s=0.1))
lease.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def store(proxy: StoreProxy, url: str) -> Store:
    return Store(url)


@pytest.fixture
def moto_store(moto_proxy: StoreProxy, url: str) -> Store:
    return Store(url)


@pytest.fixture
def holder(
    store: Store, store_server: ObjectStoreServer, proxy: StoreProxy
) -> "Iterator[subprocess.Popen[str]]":
    """Yield another process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.url, FOLDER],
        env=os.environ | environment_of(proxy.address, store_server.scheme),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(timeout=WITHIN_S)
    process.stdout.close()


def as_of_another_machine(store: Store) -> None:
    """Make the lease look as if a process of another machine had written it."""
    found = store.get(f"{FOLDER}/_lease")
    assert found is not None
    content = json.loads(found[0]) | {"machine": "another", "host": "node7"}
    assert store.replace(f"{FOLDER}/_lease", json.dumps(content).encode(), found[1])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_lease__is_renewed_and_released(store: Store, proxy: StoreProxy) -> None:
    lease = Lease(store, FOLDER, LASTING)

    assert lease.acquire() is False
    until(lambda: proxy.counts_of("_lease")["PUT"] >= 3)
    lease.check()
    found = store.get(f"{FOLDER}/_lease")
    lease.release()

    assert found is not None
    content = json.loads(found[0])
    assert content.keys() == {"attempt", "host", "pid", "machine", "started", "beats"}
    assert (content["attempt"], content["pid"]) == (lease.attempt, os.getpid())
    assert [*store.list("")] == []


def test_lease__waits_until_it_is_released(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Lease(store, FOLDER, LASTING), Lease(store, FOLDER, LASTING)
    first.acquire()
    order: list[str] = []

    def release() -> None:
        until(lambda: "waiting for it" in caplog.text)
        order.append("released")
        first.release()

    thread = threading.Thread(target=release)
    with caplog.at_level(logging.WARNING):
        thread.start()
        assert second.acquire() is True
    order.append("acquired")
    thread.join()
    second.release()

    assert order == ["released", "acquired"]
    assert f"process {os.getpid()} on" in caplog.text
    assert [*store.list("")] == []  # nor is the object left with which the clock was read


def test_lease__killed_process_of_another_machine_expires(
    store: Store, holder: "subprocess.Popen[str]"
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=WITHIN_S)
    as_of_another_machine(store)
    start = time.monotonic()

    Lease(store, FOLDER, SHORT).acquire()

    # Not before the lease has ended, give or take the whole seconds of the store's clock.
    assert time.monotonic() - start > SHORT.lease_s - 1


def test_lease__killed_process_of_this_machine_is_followed_at_once(
    store: Store, holder: "subprocess.Popen[str]", caplog: pytest.LogCaptureFixture
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=WITHIN_S)
    lease = Lease(store, FOLDER, Times(lease_s=3600, look_s=0.1))

    assert lease.acquire() is True

    lease.check()
    lease.release()
    assert "waiting" not in caplog.text


@pytest.mark.slow
def test_lease__killed_process_is_followed_within_two_minutes(
    store: Store, store_server: ObjectStoreServer, holder: "subprocess.Popen[str]"
) -> None:
    if store_server.scheme != "s3":
        pytest.skip("takes 90 seconds; the tests with short times run there")
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=WITHIN_S)
    as_of_another_machine(store)
    start = time.monotonic()

    Lease(store, FOLDER).acquire()

    assert LEASE_S - 2 < time.monotonic() - start < 120


@pytest.mark.slow
def test_lease__stopped_process_loses_it(store: Store, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGSTOP)  # as on a laptop that sleeps
    lease = Lease(store, FOLDER, SHORT)
    lease.acquire()
    holder.send_signal(signal.SIGCONT)

    # The other one's renewals are refused, and it does not delete what is not its own.
    time.sleep(1.0)
    lease.check()
    found = store.get(f"{FOLDER}/_lease")
    assert found is not None
    assert json.loads(found[0])["attempt"] == lease.attempt
    lease.release()


def test_lease__holder_notices_that_it_has_lost(moto_store: Store) -> None:
    lease = Lease(moto_store, FOLDER, LASTING)
    lease.acquire()
    moto_store.put(f"{FOLDER}/_lease", b'{"attempt": "another"}')

    def is_lost() -> bool:
        try:
            lease.check()
        except LeaseLostError as error:
            assert "taken it over" in str(error)  # noqa: PT017  the text differs by the cause
            return True
        return False

    until(is_lost)
    lease.release()
    assert moto_store.get(f"{FOLDER}/_lease") is not None


def test_lease__lost_responses(store: Store, proxy: StoreProxy) -> None:
    lost = proxy.fail(Fault("lost", "PUT", "_lease", times=3))
    lease = Lease(store, FOLDER, Times(lease_s=60, heartbeat_s=0.2, look_s=0.1))

    lease.acquire()
    until(lambda: lost.hits == 3)
    until(lambda: proxy.counts_of("_lease")["PUT"] >= 7)

    lease.check()
    lease.release()
    assert [*store.list("")] == []


def test_lease__store_gone_for_longer_than_the_lease(
    moto_store: Store, moto_proxy: StoreProxy
) -> None:
    lease = Lease(moto_store, FOLDER, SHORT)
    lease.acquire()
    moto_proxy.fail(Fault("busy", times=ALWAYS))
    time.sleep(SHORT.lease_s + 0.5)

    with pytest.raises(LeaseLostError, match="the store could not be reached for 2 s"):
        lease.check()
    moto_proxy.forget()
    lease.release()


@pytest.mark.slow
def test_lease__damaged_object_expires(moto_store: Store) -> None:
    moto_store.put(f"{FOLDER}/_lease", b"\xff not JSON")

    lease = Lease(moto_store, FOLDER, SHORT)
    lease.acquire()

    lease.release()


def test_this_process__says_when_it_started() -> None:
    if not Path("/proc").exists():
        pytest.skip("only Linux has /proc")
    this = this_process()

    assert this["started"].isdecimal()
    assert this["machine"]
