"""Threads that compute independently of each other, for loops over blocks of rows.

numpy, torch and faiss divide each operation among threads of their own, two sets of which wait for
each other actively. Threads that each call the libraries for a block of their own, with a single
thread, never wait: an iteration of k-means at 200,000 x 256 and k = 1,000 took 0.53 s on two cores,
instead of 0.74 s.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch


@contextmanager
def workers(number: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads that share the threads of the numerical libraries among them.

    Args:
        number: how many; at most the threads of torch in the calling thread.
    """
    faiss = sys.modules.get("faiss")  # not imported if torch does all the work
    available = torch.get_num_threads()
    each = max(1, available // number)
    started = Barrier(number + 1)

    def begin() -> None:
        try:
            if faiss is not None:
                faiss.omp_set_num_threads(each)
            torch.get_num_threads()  # or the first operation resets it to that of the process
            torch.set_num_threads(each)
        finally:
            started.wait()

    with ThreadPoolExecutor(number, thread_name_prefix="rows", initializer=begin) as pool:
        try:
            for _ in range(number):  # which starts them all: none is idle until all have started
                pool.submit(_nothing)
            started.wait()
        except BaseException:
            started.abort()  # for those that did start
            raise
        # Threads started later take the number set last, in whichever thread that was.
        torch.set_num_threads(available)
        yield pool


def _nothing() -> None:
    pass
