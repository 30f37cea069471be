"""Threads that compute independently of each other."""

from concurrent.futures import ThreadPoolExecutor

import faiss
import pytest
import torch

from deepcluster_core.clustering.workers import workers
from tests.support.threads import torch_threads


def threads_here() -> tuple[int, int]:
    torch.ones(1 << 16).sum()  # after which torch has decided how many threads it uses
    return torch.get_num_threads(), faiss.omp_get_max_threads()


@pytest.mark.parametrize(("number", "each"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_workers__divide_the_threads(number: int, each: int) -> None:
    with torch_threads(4):
        with workers(number) as pool:
            tasks = [pool.submit(threads_here) for _ in range(3 * number)]
            found = {task.result() for task in tasks}

        assert found == {(each, each)}
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as later:
            assert later.submit(threads_here).result()[0] == 4


def test_workers__raise_what_their_work_raises() -> None:
    with workers(2) as pool, pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result()
