"""Real ranks: processes that share memory, or talk through gloo on the loopback interface."""

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from deepcluster_core.ranks import Ranks
from tests.support.timeouts import WITHIN_S

T = TypeVar("T")


def on_processes(
    size: int,
    work: Callable[[Ranks, Path], T],
    folder: Path,
    *,
    timeout_s: float = WITHIN_S,
    several_machines: bool = False,
    answers: int | None = None,
) -> list[T | BaseException]:
    """Call a function of a test module in `size` processes; return the result or error of each.

    Args:
        size: number of ranks.
        work: receives the ranks and `folder`; pickled by name, so it must not be a local function.
        folder: an empty folder, in which the ranks also find each other.
        timeout_s: how long a collective waits.
        several_machines: whether they exchange tensors as those of several machines do.
        answers: how many ranks have a result; all if left out.
    """
    spawn = multiprocessing.get_context("spawn")
    store = f"file://{folder / 'store'}"
    if several_machines:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            store = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    queue: multiprocessing.Queue[tuple[int, Any]] = spawn.Queue()
    processes = [
        spawn.Process(target=_rank, args=(queue, work, folder, store, rank, size, timeout_s))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    while len(results) < (answers or size):
        rank, result = queue.get(timeout=WITHIN_S)
        results[rank] = pickle.loads(result)  # noqa: S301  from our own processes
    for process in processes:
        process.join(WITHIN_S)
    return [results[rank] for rank in sorted(results)]


def _rank(
    queue: Any,  # noqa: ANN401  no class of its own
    work: Callable[[Ranks, Path], Any],
    folder: Path,
    store: str,
    rank: int,
    size: int,
    timeout_s: float,
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    from deepcluster_core.process_group import joined  # noqa: PLC0415  after the environment is set

    result: Any
    try:
        with joined(
            store, rank=rank, size=size, local_rank=rank, device="cpu", timeout_s=timeout_s
        ) as ranks:
            result = work(ranks, folder)
    except BaseException as error:
        result = error
    # As bytes: the queue would share the memory of tensors, which ends with this process.
    queue.put((rank, pickle.dumps(result)))
