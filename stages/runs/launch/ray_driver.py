"""The driver of a launch with Ray: it places one actor for each rank, and waits for the ranks.

python -m stages.runs.launch.ray_driver FOLDER PARENT ADDRESS LOCAL_FOLDER CPUS
"""
# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# Ray is an optional dependency.

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.runs.launch.lifetime import end_with_parent
from stages.runs.launch.messages import JOB, Messages, last_lines, read_job
from stages.runs.launch.ray_actor import Home, RankActor

LOCAL = "local"
LOOK_EVERY_S = 0.2
KILLED_WITHIN_S = 4.0
"""Seconds for ending the other ranks. The run kills this process a second later."""
OBJECT_STORE_BYTES = 80 << 20
"""About the least that Ray allows: nothing is stored."""
TEMP_AT_MOST = 40
"""Characters of a folder for Ray's sockets, whose paths the kernel limits to 107."""


@dataclass(frozen=True)
class Needs:
    """What the ranks of a launch need from Ray."""

    num_ranks: int
    cpus: int
    gpus: int
    timeout_s: float

    def bundle(self) -> dict[str, float]:
        """Return the resources of a rank."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


def main(folder: Path, parent: int, address: str, local_folder: Path, cpus: int) -> int:
    """Start the ranks and wait for them; return the exit code, 1 if a rank failed.

    Args:
        folder: folder of messages.
        parent: the process that has started this one.
        address: HOST:PORT of a cluster, or `local` to start one on this machine.
        local_folder: folder on a disk of this machine.
        cpus: CPUs that Ray reserves for a rank.
    """
    end_with_parent(parent)
    # Ray lets its processes import what is in this folder, which has no modules.
    os.chdir(folder)
    import ray  # noqa: PLC0415  takes a while, in which the parent could end

    messages = Messages(folder)
    job = read_job(folder / JOB)
    gpus = int(job["device"].startswith("cuda"))
    needs = Needs(job["num_ranks"], cpus, gpus, job["timeout_s"])
    _connect(ray, address, local_folder, needs)
    try:
        actors = _place(ray, needs, messages)
        homes: list[Home] = ray.get([actor.home.remote() for actor in actors])
        order = by_machine(homes)
        ranks = [actors[number] for number in order]
        homes = [homes[number] for number in order]
        if address != LOCAL:
            port = ray.get(ranks[0].free_port.remote())
            messages.give_job({**job, "store": f"tcp://{homes[0].address}:{port}"})
        _start(ray, ranks, homes, messages, towards=None if address == LOCAL else homes[0].address)
        return _wait(ray, ranks, messages)
    finally:
        ray.shutdown()  # ends the actors, and with them the ranks


def _connect(ray: Any, address: str, local_folder: Path, needs: Needs) -> None:  # noqa: ANN401
    """Connect to a cluster, or start one on this machine that ends with this process."""
    # The interpreters of other machines need not find this program by themselves.
    names = ("PYTHONPATH", "PYTHONSAFEPATH")
    variables = {name: os.environ[name] for name in names if name in os.environ}
    common = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "runtime_env": {"env_vars": variables},
    }
    if address != LOCAL:
        ray.init(address=address, **common)
        return
    # By default Ray leaves its logs in /tmp/ray.
    temp = local_folder.resolve() / "ray"
    ray.init(
        address=LOCAL,
        num_cpus=needs.num_ranks * needs.cpus,
        num_gpus=needs.num_ranks * needs.gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(temp) if len(str(temp)) <= TEMP_AT_MOST else None,
        **common,
    )


def _place(ray: Any, needs: Needs, messages: Messages) -> list[Any]:  # noqa: ANN401
    """Return one actor for each rank, all placed."""
    from ray.util.placement_group import placement_group  # noqa: PLC0415
    from ray.util.scheduling_strategies import (  # noqa: PLC0415
        PlacementGroupSchedulingStrategy,
    )

    # Gradients should cross as few networks as possible. On CPUs, cores are what is scarce.
    strategy = "PACK" if needs.gpus else "SPREAD"
    bundles = [needs.bundle() for _ in range(needs.num_ranks)]
    group = placement_group(bundles, strategy=strategy)
    deadline = time.monotonic() + needs.timeout_s
    while not group.wait(1):
        if messages.wished()[0] != "run":
            sys.exit("the run was stopped")
        if time.monotonic() > deadline:
            sys.exit(
                f"Ray has had no room for {needs.num_ranks} ranks with {needs.bundle()} each for "
                f"{needs.timeout_s:g} s (compute.timeout_s). `ray status` shows what uses it."
            )
    placed = ray.remote(RankActor)
    return [
        placed.options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, number),
        ).remote()
        for number in range(needs.num_ranks)
    ]


def by_machine(homes: Sequence[Home]) -> list[int]:
    """Return the numbers of actors in an order in which those of a machine are neighbours."""
    hosts = [home.host for home in homes]
    first = {host: hosts.index(host) for host in hosts}
    return sorted(range(len(homes)), key=lambda number: first[hosts[number]])


def variables_of(rank: int, homes: Sequence[Home]) -> dict[str, str]:
    """Return the environment variables of a rank, as torchrun would set them.

    A rank sees all GPUs that its machine has in this launch, and takes the one of its number, so
    that GPUs of one machine can exchange data directly.

    Args:
        rank: number of the rank.
        homes: where the ranks are, by their numbers.
    """
    host = homes[rank].host
    on_machine = [number for number, home in enumerate(homes) if home.host == host]
    gpus = [gpu for number in on_machine for gpu in homes[number].gpus]
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(homes)),
        "LOCAL_RANK": str(on_machine.index(rank)),
        "LOCAL_WORLD_SIZE": str(len(on_machine)),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }


def _start(
    ray: Any,  # noqa: ANN401
    ranks: Sequence[Any],
    homes: Sequence[Home],
    messages: Messages,
    *,
    towards: str | None,
) -> None:
    job_file = messages.folder / JOB
    ray.get(
        [
            actor.start.remote(job_file, messages.log(rank), variables_of(rank, homes), towards)
            for rank, actor in enumerate(ranks)
        ]
    )


def _wait(ray: Any, ranks: Sequence[Any], messages: Messages) -> int:  # noqa: ANN401
    """Wait until all ranks have ended, or one has failed; then end the others."""
    codes: dict[int, int | None] = dict.fromkeys(range(len(ranks)))
    while None in codes.values():
        time.sleep(LOOK_EVERY_S)
        running = [rank for rank, code in codes.items() if code is None]
        asked = {rank: ranks[rank].exit_code.remote() for rank in running}
        for rank, answer in asked.items():
            try:
                codes[rank] = ray.get(answer)
            except ray.exceptions.RayError as error:
                # Ray has ended the actor, because its machine has failed or has no memory left.
                codes[rank] = 1
                print(f"rank {rank}: Ray has lost its actor.\n{error}")  # noqa: T201
        failed = {rank: code for rank, code in codes.items() if code}
        if failed:
            _report(failed, messages)
            _kill(ray, [ranks[rank] for rank, code in codes.items() if code is None])
            return 1
    return 0


def _report(failed: dict[int, int], messages: Messages) -> None:
    messages.report_exits(failed)
    for rank, code in failed.items():
        if messages.state(rank).state == "absent":  # it could not even report that it has started
            log = last_lines(messages.log(rank))
            print(f"rank {rank} ended with exit code {code}:\n{log}")  # noqa: T201


def _kill(ray: Any, actors: Sequence[Any]) -> None:  # noqa: ANN401
    """End ranks, also on other machines, before the run believes that they have ended."""
    asked = [actor.kill.remote() for actor in actors]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=KILLED_WITHIN_S)


if __name__ == "__main__":
    _folder, _parent, _address, _local_folder, _cpus = sys.argv[1:]
    sys.exit(main(Path(_folder), int(_parent), _address, Path(_local_folder), int(_cpus)))
