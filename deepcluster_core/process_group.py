"""Ranks as processes that talk through torch.distributed.

Sums of a stage are taken in main memory, on GPUs as well: they are few and small. On one machine
they go through memory that the ranks share, otherwise through gloo; both raise an error when they
have waited too long, where NCCL ends the process. Gradients and the statistics of batch
normalisation, which are exchanged in every step, stay on the device.
"""
# torch.distributed lists only some of its public names.
# pyright: reportPrivateImportUsage=false

import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from deepcluster_core.errors import PeerLostError, RanksError, first_line
from deepcluster_core.rank_progress import RankProgress
from deepcluster_core.ranks import is_of_exchange
from deepcluster_core.shared_sums import SharedSums

T = TypeVar("T")

SMALL_BYTES = 64 * 1024
"""Largest tensor that ranks of several machines sum along a tree. gloo sums by many messages at
once: 65 float64 of two ranks take it 1.6 ms and most of that of a core; along the tree, 0.24 ms."""


@contextmanager
def joined(
    store: str, *, rank: int, size: int, local_rank: int, device: str, timeout_s: float
) -> Iterator["ProcessGroup"]:
    """Join the ranks of a stage for the duration of the block.

    Args:
        store: where the ranks find each other: `file:///path` of a file that does not exist yet, on
            one machine, or `tcp://HOST:PORT` of the first rank. Only the latter listens on a port
            that other machines can reach.
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process among those on its machine.
        device: torch device of this rank.
        timeout_s: how long a call waits for the other ranks, seconds.

    Raises:
        RanksError: not all ranks have joined within `timeout_s`.
    """
    timeout = timedelta(seconds=timeout_s)
    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.cuda.set_device(device)
    try:
        rendezvous = _store(store, rank=rank, size=size, timeout=timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
            store=rendezvous,
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise RanksError(
            f"rank {rank}: not all of {size} ranks have joined within {timeout_s:g} s.\n"
            f"  Cause: {first_line(error)}\n"
            f"  Fix:   look into the logs of the other ranks; the same command then continues."
        ) from error
    try:
        shared = None
        if size > 1 and store.startswith("file://"):  # on one machine
            memory_store = dist.PrefixStore("shared", rendezvous)
            shared = SharedSums.opened(memory_store, rank=rank, size=size, timeout_s=timeout_s)
        group = ProcessGroup(
            rendezvous, shared, local_rank=local_rank, device=device, timeout_s=timeout_s
        )
        with group.progress.publishing():
            yield group
    finally:
        dist.destroy_process_group()


def _store(place: str, *, rank: int, size: int, timeout: timedelta) -> dist.Store:
    scheme, _, address = place.partition("://")
    if scheme == "file":
        return dist.FileStore(address, size)
    host, _, port = address.rpartition(":")
    return dist.TCPStore(
        host, int(port), size, is_master=rank == 0, timeout=timeout, wait_for_workers=False
    )


class ProcessGroup:
    """The ranks of a stage, as one of them sees them; implements `Ranks`."""

    def __init__(
        self,
        store: dist.Store,
        shared: SharedSums | None,
        *,
        local_rank: int,
        device: str,
        timeout_s: float,
    ) -> None:
        """Begin, after all processes have joined the default group of torch.distributed.

        Args:
            store: where they have found each other.
            shared: what adds up tensors in main memory; None for gloo.
            local_rank: number of this process among those on its machine.
            device: torch device of this rank.
            timeout_s: how long a call waits for the other ranks, seconds.
        """
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.local_rank = local_rank
        self.moved_bytes: dict[str, int] = {}
        self.progress = RankProgress(store, rank=self.rank, size=self.size, timeout_s=timeout_s)
        self._shared = shared
        self._device = device
        self._timeout_s = timeout_s

    def sum(self, partial: Tensor, name: str) -> Tensor:
        """Return the sum of a tensor over all ranks, on the device of the tensor."""
        total = partial.to("cpu", copy=True, memory_format=torch.contiguous_format)
        with self._waiting(name):
            self._check_same_call(name, f"{partial.dtype} {tuple(partial.shape)}")
            self._sum_in_place(total, name)
        return total.to(partial.device)

    def gather(self, value: T, name: str) -> list[T] | None:
        """Return the values of all ranks on the first rank; torch pickles them."""
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with self._waiting(name):
            self._check_same_call(name, "gather")
            dist.gather_object(value, values)
        if self.rank != 0 and (sent := _bytes_in(value)):
            self._count(name, sent)
        return values

    def on_first(self, make: Callable[[], T], name: str) -> T:
        """Call a function on the first rank, and share its result or its error; torch pickles it.

        The others wait without a time limit, as long as the process of the first rank lives.
        """
        result: list[Any] = [None, None]
        if self.rank == 0:
            try:
                result[0] = make()
            except Exception as error:
                result[1] = error
        with self._waiting(name):
            self.progress.wait_for_first()
            self._check_same_call(name, "on_first")
            dist.broadcast_object_list(result, src=0, device=torch.device("cpu"))
        value, error = result
        if error is not None:
            raise error
        return cast("T", value)

    def any(self, flag: bool, name: str) -> bool:
        """Return whether the flag is true on any rank."""
        return bool(self.sum(torch.tensor(int(flag)), name))

    def barrier(self, name: str) -> None:
        """Wait until all ranks have arrived."""
        with self._waiting(name):
            self._check_same_call(name, "barrier")

    def sum_in_step(self, partial: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, on its device and without checks."""
        total = partial.clone(memory_format=torch.contiguous_format)
        with self._waiting("batch statistics"):
            self._sum_in_place(total, "batch statistics")
        return total

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose backward pass leaves the mean gradient of all ranks everywhere.

        The weights of the first rank are copied to all. Buffers are not exchanged.
        """
        is_cuda = self._device.startswith("cuda")
        # torch rearranges the gradients after the first step, unless it must look for unused
        # weights. With three or more ranks, this changes the order of additions of gloo and NCCL,
        # so that training that was resumed would differ in the last bits from training that was
        # not.
        keeps_arrangement = self.size > 2 and (is_cuda or self._shared is None)
        with self._waiting("first weights"), warnings.catch_warnings():
            # Deprecated in torch 2.15 in favour of an argument that older versions lack, and with
            # which buffers would be exchanged here.
            warnings.filterwarnings("ignore", r"`broadcast_buffers` is deprecated", FutureWarning)
            wrapped = DistributedDataParallel(
                module,
                device_ids=[torch.device(self._device)] if is_cuda else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=keeps_arrangement,
            )

        def count_and_reduce(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            gradients = bucket.buffer()
            if self._shared is not None and gradients.is_cpu:
                gradients /= self.size
                self._sum_in_place(gradients, "gradients")
                done: torch.futures.Future[Tensor] = torch.futures.Future()
                done.set_result(gradients)
                return done
            self._count("gradients", 2 * (self.size - 1) * _bytes_of(gradients) // self.size)
            return allreduce_hook(cast("dist.ProcessGroup", dist.group.WORLD), bucket)

        wrapped.register_comm_hook(None, count_and_reduce)
        return wrapped

    def _sum_in_place(self, total: Tensor, name: str) -> None:
        """Replace a tensor by its sum over all ranks, bit-identical on each of them."""
        if self._shared is not None and total.is_cpu:
            self._shared.add_up(total)
            self._count(name, _bytes_of(total))
            return
        if total.is_cpu and _bytes_of(total) <= SMALL_BYTES:
            self._count(name, self._combine(total, Tensor.add_))
            return
        dist.all_reduce(total)
        # In a ring, each rank sends its part and the sums of the others once around.
        self._count(name, 2 * (self.size - 1) * _bytes_of(total) // self.size)

    def _combine(self, total: Tensor, combine: Callable[[Tensor, Tensor], object]) -> int:
        """Combine a small tensor of all ranks on the first one, and give the result to all.

        In a binomial tree: the parent of a rank is the rank without its lowest bit. The others wait
        for 2 log2 R messages at most.

        Args:
            total: this rank's part, in main memory; receives the result.
            combine: combines its second argument into the first one, in place.

        Returns:
            The bytes that this rank has sent.
        """
        part = torch.empty_like(total)
        children: list[int] = []
        bit = 1
        while bit < self.size and not self.rank & bit:
            child = self.rank | bit
            if child < self.size:
                dist.recv(part, child)
                combine(total, part)
                children.append(child)
            bit *= 2
        if self.rank > 0:
            parent = self.rank & ~bit
            dist.send(total, parent)
            dist.recv(total, parent)
        for child in reversed(children):
            dist.send(total, child)
        num_sent = len(children) + (self.rank > 0)
        return num_sent * _bytes_of(total)

    @contextmanager
    def exchanging(self, name: str) -> Iterator[None]:
        """Explain errors about other ranks in a block, and leave all others alone."""
        other: RuntimeError | None = None
        with self._waiting(name):
            try:
                yield
            except RuntimeError as error:
                if is_of_exchange(error):
                    raise
                other = error
        if other is not None:  # such as a lack of memory
            raise other

    @contextmanager
    def _waiting(self, name: str) -> Iterator[None]:
        """Explain torch's errors about other ranks."""
        self.progress.begin_call()
        try:
            yield
        except RuntimeError as error:
            cause = first_line(error)
            if "imed out" in cause:
                raise RanksError(
                    f"rank {self.rank} has waited {self._timeout_s:g} s in '{name}' for "
                    f"{self.progress.missing()}.\n"
                    f"  Cause: a rank that hangs or is much slower than the others, or a network "
                    f"that does not connect them\n"
                    f"  Fix:   look into the logs of the ranks; raise compute.timeout_s if they "
                    f"were only slow. The same command then continues."
                ) from error
            raise PeerLostError(
                f"rank {self.rank} has lost the connection to other ranks in '{name}'.\n"
                f"  Cause: {cause}\n"
                f"  Fix:   look into the logs of the other ranks; the same command then continues."
            ) from error

    def _check_same_call(self, name: str, what: str) -> None:
        """Raise RanksError on every rank unless all make the same call.

        Without this check, sums of different shapes can give wrong numbers (NCCL) or end the
        process (gloo).
        """
        call = f"{name}: {what}"
        if self._are_same(zlib.crc32(call.encode())):
            return
        calls: list[Any] = [None] * self.size
        dist.all_gather_object(calls, call)
        listed = "; ".join(f"rank {rank}: {made}" for rank, made in enumerate(calls))
        raise RanksError(
            f"the ranks make different calls, so that their results would be wrong. {listed}.\n"
            f"  Cause: an error of this program, or ranks with different versions of it\n"
            f"  Fix:   use the same version everywhere; otherwise please report it."
        )

    def _are_same(self, number: int) -> bool:
        """Return whether all ranks have the same number."""
        if self._shared is not None:
            number_R = torch.zeros(self.size, dtype=torch.int64)
            number_R[self.rank] = number
            self._shared.add_up(number_R)
            return bool((number_R == number).all())
        highest, lowest = (extremes := torch.tensor([number, -number]))
        self._combine(extremes, lambda ours, other: torch.maximum(ours, other, out=ours))
        return bool(highest == -lowest)

    def _count(self, name: str, num_bytes: int) -> None:
        self.moved_bytes[name] = self.moved_bytes.get(name, 0) + num_bytes


def _bytes_in(value: object) -> int:
    """Return the bytes of the arrays in a value; of others there are few."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Tensor):
        return _bytes_of(value)
    if isinstance(value, dict):
        return sum(map(_bytes_in, cast("dict[str, object]", value).values()))
    return 0


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
