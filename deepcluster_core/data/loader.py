"""Compute ahead in threads and return the results in order.

Threads are used rather than processes: decoding, resizing and copying release the interpreter lock,
batches need no pickling, and no process is forked after memory has grown.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ordered_map(function: Callable[[A], B], items: Iterable[A], *, workers: int) -> Generator[B]:
    """Yield `function(item)` for every item, in order, computed up to 2 x workers ahead.

    The results do not depend on the number of workers if `function` depends on its item alone. An
    error in `function` is raised in place of its result.

    Args:
        function: called in threads.
        items: read in the caller's thread, up to 2 x workers ahead.
        workers: number of threads, at least 1.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        ahead: deque[Future[B]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            # If the caller stops early, calls that have not begun must not be waited for.
            pool.shutdown(wait=False, cancel_futures=True)
