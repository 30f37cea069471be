"""Runs on an object store whose processes are killed, and whose store fails."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepcluster_core.artifacts.remote.client import PATIENCE
from tests.support.object_stores import ObjectStoreServer, environment_of
from tests.support.remote_runs import (
    MAKE,
    MAKE_BY_RANKS,
    Machine,
    contents,
    finished,
    manifests_written,
)
from tests.support.small_disk import small_disk
from tests.support.store_proxy import Fault, StoreProxy, store_proxy
from tests.support.timeouts import WITHIN_S

Of = Callable[[str], Machine]
pytestmark = pytest.mark.slow

NO_GRACE = "Room.__init__.__kwdefaults__['grace_s'] = 0.0"
MOMENTS = {
    "begin": ("PUT", "config.yaml"),
    "a shard": ("PUT", "epoch%3D0001/features.zarr/c/3/0"),
    "all but the manifest": ("PUT", "labels/epoch%3D0000/_clustering.safetensors"),
    "a manifest": ("PUT", "checkpoints/epoch%3D0000/_manifest.json"),
    "pruning": ("PUT", "features/epoch%3D0000/_manifest.json"),
}
"""Requests after which the process is killed."""


def _await_request(proxy: StoreProxy, method: str, text: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not proxy.counts_of(text)[method]:
        assert time.monotonic() < deadline, f"{method} {text} never came"
        time.sleep(0.002)


@pytest.mark.parametrize("moment", MOMENTS)
def test_run_epochs__goes_on_after_kill(
    machine: Of, url: str, recipe: Path, local_run: Path, proxy: StoreProxy, moment: str
) -> None:
    killed = machine("first").start(recipe, url, epochs=2)
    _await_request(proxy, *MOMENTS[moment])
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=WITHIN_S)

    # The holder of the lease ran on this machine, so that its end is noticed at once.
    finished(machine("first").start(recipe, url, epochs=2), WITHIN_S)
    assert contents(machine("first").mirror) == contents(local_run)

    proxy.forget()
    finished(machine("second").start(recipe, url, epochs=2), WITHIN_S)
    assert manifests_written(proxy) == [], "the first machine has published everything"
    assert contents(machine("second").mirror) == contents(local_run)


def test_run_epochs__another_machine_goes_on_after_kill(
    machine: Of, url: str, recipe: Path, local_run: Path, proxy: StoreProxy
) -> None:
    killed = machine("first").start(recipe, url, epochs=2)
    _await_request(proxy, "PUT", "epoch%3D0001/features.zarr/c/3/0")
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=WITHIN_S)

    finished(machine("second").start(recipe, url, epochs=2), WITHIN_S)
    assert contents(machine("second").mirror) == contents(local_run)
    # The first machine has a part of an artifact that the second one has made meanwhile.
    finished(machine("first").start(recipe, url, epochs=2), WITHIN_S)
    assert contents(machine("first").mirror) == contents(local_run)


def test_run_epochs__two_processes_make_each_artifact_once(
    machine: Of, url: str, recipe: Path, local_run: Path, proxy: StoreProxy
) -> None:
    both = [machine(name).start(recipe, url, epochs=2) for name in ("first", "second")]
    for process in both:
        finished(process, WITHIN_S)

    written = manifests_written(proxy)
    made_or_pruned = {folder: written.count(folder) for folder in written}
    assert len(made_or_pruned) == 1 + 2 * 4
    pruned = [folder for folder, times in made_or_pruned.items() if times == 2]
    assert [folder.rpartition("demo/")[2] for folder in pruned] == ["features/epoch%3D0000"]
    for name in ("first", "second"):
        assert contents(machine(name).mirror) == contents(local_run)


@pytest.mark.parametrize("kind", ["busy", "lost", "cut"])
def test_run_epochs__failing_answers_change_nothing(
    machine: Of, url: str, recipe: Path, local_run: Path, proxy: StoreProxy, kind: str
) -> None:
    faults = [
        proxy.fail(Fault(kind, text=text, times=2, after_bytes=0))  # pyright: ignore[reportArgumentType]
        for text in ("_lease", "config.yaml", "_manifest.json", "/c/", ".safetensors", "list-type")
    ]
    finished(machine("first").start(recipe, url, epochs=2), WITHIN_S)
    proxy.forget()
    faults += [
        proxy.fail(Fault(kind, method="GET", text=text, times=2, after_bytes=100))  # pyright: ignore[reportArgumentType]
        for text in ("_manifest.json", "metrics.parquet", "config.yaml")
    ]
    finished(machine("second").start(recipe, url, epochs=2), WITHIN_S)

    assert not [fault for fault in faults if not fault.hits]
    for name in ("first", "second"):
        assert contents(machine(name).mirror) == contents(local_run)


def test_run_epochs__goes_on_when_the_server_is_back(
    machine: Of,
    url: str,
    recipe: Path,
    local_run: Path,
    proxy: StoreProxy,
    server: ObjectStoreServer,
) -> None:
    running = machine("first").start(recipe, url, epochs=2)
    _await_request(proxy, "PUT", "labels/epoch%3D0000/_manifest.json")
    server.kill()
    server.start()

    finished(running, WITHIN_S)
    assert contents(machine("first").mirror) == contents(local_run)


def test_run_epochs__a_store_that_stays_away_loses_nothing(
    machine: Of,
    url: str,
    recipe: Path,
    local_run: Path,
    proxy: StoreProxy,
    server: ObjectStoreServer,
) -> None:
    first = machine("first")
    impatient = Machine(first.scratch, {**first.environment, PATIENCE: "2"})
    unpublished = "checkpoints/epoch%3D0000/_manifest.json"
    # The store is away from here on; the end of its process alone could come after the answer.
    away = proxy.fail(Fault("busy", method="PUT", text=unpublished, times=1000))
    running = impatient.start(recipe, url, epochs=2)
    _await_request(proxy, "PUT", unpublished)
    server.kill()
    try:
        output, _ = running.communicate(timeout=WITHIN_S)
        assert running.returncode == 1, output
        assert "StoreError" in output
        assert "what is finished is kept" in output
        # What was made before the store was missed is whole, though not published.
        made = first.mirror / "checkpoints" / "epoch=0000" / "_manifest.json"
        assert made.exists()
        before = made.read_bytes()
    finally:
        server.start()
        away.times = 0

    finished(first.start(recipe, url, epochs=2), WITHIN_S)
    assert made.read_bytes() == before, "it was published, and not made again"
    finished(machine("second").start(recipe, url, epochs=2), WITHIN_S)
    for name in ("first", "second"):
        assert contents(machine(name).mirror) == contents(local_run)


def test_run_epochs__several_ranks(
    machine: Of, url: str, recipe: Path, local_run: Path, proxy: StoreProxy
) -> None:
    finished(machine("first").start(recipe, url, epochs=2, program=MAKE_BY_RANKS), WITHIN_S)
    proxy.forget()
    finished(machine("second").start(recipe, url, epochs=1, program=MAKE_BY_RANKS), WITHIN_S)
    assert manifests_written(proxy) == []
    made, expected = contents(machine("second").mirror), contents(local_run)
    first_labels = "labels/epoch=0000"
    assert made[first_labels] == expected[first_labels], "equal for any number of ranks"


def test_run_epochs__a_store_without_conditions_is_refused(
    url: str, recipe: Path, moto_server: ObjectStoreServer, tmp_path: Path
) -> None:
    # SeaweedFS checks the signature, which covers the headers that are removed.
    with store_proxy("127.0.0.1", moto_server.port) as proxy:
        proxy.fail(Fault("without_conditions", times=1000))
        machine = Machine(tmp_path / "first", environment_of(proxy.address))
        running = machine.start(recipe, url, epochs=1)
        output, _ = running.communicate(timeout=WITHIN_S)
        assert running.returncode == 1
        assert "does not honour If-None-Match" in output
        assert manifests_written(proxy) == []


def test_run_epochs__little_room_is_enough(
    machine: Of, url: str, recipe: Path, local_run: Path, proxy: StoreProxy
) -> None:
    program = MAKE.replace("echo=False", "overrides={'compute': {'scratch_bytes': 9_000_000}}")
    finished(machine("first").start(recipe, url, epochs=2, program=program), WITHIN_S)
    assert contents(machine("first").mirror) == contents(local_run)


def test_run_epochs__a_full_disk_evicts_what_the_store_has(
    machine: Of, url: str, recipe: Path, local_run: Path, tmp_path: Path
) -> None:
    checkpoint = local_run / "checkpoints/epoch=0001"
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    # Room for the checkpoint that is read, the one that is written, and little else.
    room_kib = int(2.6 * size) >> 10
    # Nothing waits here for the files that were just used.
    program = f"from deepcluster_core.artifacts.remote.room import Room\n{NO_GRACE}\n{MAKE}"
    with small_disk(tmp_path / "first", kib=room_kib):
        first = machine("first")
        output = finished(first.start(recipe, url, epochs=3, program=program), WITHIN_S)
        assert "the disk is full; deleted" in output
        is_here = [path.parent.name for path in first.mirror.rglob("model.safetensors")]
        made = contents(first.mirror)

    assert "epoch=0000" not in is_here
    assert "checkpoints/epoch=0002" in made
    expected = contents(local_run)
    pruned = "features/epoch=0001"
    assert {name: made[name] for name in expected if name != pruned} == {
        name: of for name, of in expected.items() if name != pruned
    }
