"""The launcher that starts nothing: one rank, in the process of the run."""

import os
from collections.abc import Mapping
from typing import NoReturn

from deepcluster_core.errors import ConfigError
from stages.runs.compute import ComputeConfig
from stages.runs.launch.launcher import Launch


class InProcess:
    """No launcher at all."""

    def default_ranks(self, compute: ComputeConfig, device: str) -> int:
        """Return 1."""
        return 1

    def check(self, compute: ComputeConfig, num_ranks: int, device: str) -> None:
        """Raise ConfigError if there is more than one rank."""
        if num_ranks > 1:
            raise ConfigError(
                f"compute.launcher: process runs one rank, not compute.ranks = {num_ranks}.\n"
                f"  Fix: leave compute.launcher out, or set it to torchrun."
            )

    def ranks_here(self, compute: ComputeConfig, num_ranks: int) -> int:
        """Return 1."""
        return 1

    def spans_machines(self, compute: ComputeConfig) -> bool:
        """Return False."""
        return False

    def remark(self, compute: ComputeConfig) -> None:
        """Return None."""

    def store(self, launch: Launch) -> NoReturn:
        """Raise an error, because a single rank looks for no others."""
        raise NotImplementedError

    def announce(self, launch: Launch) -> None:
        """Do nothing."""

    def command(self, launch: Launch) -> NoReturn:
        """Raise an error, because nothing is started."""
        raise NotImplementedError

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Return nothing."""
        return {}


def use_threads(num_threads: int) -> None:
    """Set the number of threads of the numerical libraries in this process."""
    # Imported here because showing a run needs neither.
    import torch  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    torch.set_num_threads(num_threads)
    threadpool_limits(num_threads)  # NumPy's and faiss's, each of which has its own libraries
    # Those that are loaded later read this.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
