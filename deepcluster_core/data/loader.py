"""Work ahead in threads, results in order.

Threads, not processes: decoding, resizing and copying let go of the interpreter lock, whole
batches need no pickling, and nothing is forked after memory has grown.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ordered_map(function: Callable[[A], B], items: Iterable[A], *, workers: int) -> Iterator[B]:
    """Yield `function(item)` for every item, in order, computed up to 2 x workers ahead.

    The results are the same for any number of workers as long as `function` depends on nothing
    but its item. An error in `function` is raised where its result would have come.

    Args:
        function: called in threads.
        items: read in the caller's thread, only as far ahead as the work goes.
        workers: threads, at least 1.
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
            pool.shutdown(wait=False, cancel_futures=True)
