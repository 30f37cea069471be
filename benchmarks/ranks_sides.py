"""Stages as ranks, and iterations of k-means, as sides of the benchmark `ranks`.

`python -m benchmarks.ranks_sides FUNCTION ARGUMENTS PLACE` runs one rank; both are JSON.
"""

# ruff: noqa: E402  the environment is prepared before torch is imported, as in every run
from flows.engine import environment

environment.prepare()

import json
import os
import shutil
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import ours, scaling_sides
from benchmarks.command import DEMO
from benchmarks.synthetic import random_blocks
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.clustering import kmeans
from deepcluster_core.clustering.lloyd import iterate
from deepcluster_core.clustering.points import Points
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.memory import keep_freed_memory
from deepcluster_core.process_group import joined
from deepcluster_core.ranks import ALONE, Ranks
from deepcluster_core.stage import Input, StageFunction
from deepcluster_core.training.plan import Plan, shared_plan
from deepcluster_core.training.sampler import balancing_weights, uniform_order
from stages.cluster import ClusterConfig, cluster
from stages.extract import extract
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.launch.placement import Placement
from stages.runs.recipe import load_recipe
from stages.train import train

Figures = dict[str, float]
ITERATIONS = 10
SAMPLE_EVERY_S = 0.2
TIMEOUT_S = 600.0
EPOCH = ours.MEASURED


def write_images(run: str, count: int) -> None:
    """Pack moved digits, and make the inputs of an epoch."""
    source = Path(f"{run}.parquet")
    source.parent.mkdir(parents=True, exist_ok=True)
    scaling_sides.write_moved_digits(str(source), count)
    ours.prepare(DEMO, {"dataset": {"source": str(source)}}, run)
    # As the inputs of the measured stages, together with the recipe's own settings.
    source.rename(Path(run) / "source.parquet")


def extract_stage(ranks: Ranks, run: str, batch_size: int, k: int) -> Figures:
    """Run the extract stage."""
    folder, sections = _opened(run, batch_size)
    inputs: dict[str, Input] = {
        "images": folder.artifact("images", None),
        "checkpoint": folder.artifact(train.kind, EPOCH - 1),
    }
    return _run(extract, sections, inputs, folder, ranks)


def train_stage(ranks: Ranks, run: str, batch_size: int, k: int) -> Figures:
    """Run the train stage."""
    folder, sections = _opened(run, batch_size)
    inputs: dict[str, Input] = {
        "images": folder.artifact("images", None),
        "labels": folder.artifact(cluster.kind, EPOCH - 1),
        "checkpoint": folder.artifact(train.kind, EPOCH - 1),
    }
    return _run(train, sections, inputs, folder, ranks)


def cluster_stage(ranks: Ranks, run: str, batch_size: int, k: int) -> Figures:
    """Run the cluster stage on random features; the PCA keeps all of their dimensions."""
    folder = RunFolder(Path(run))
    sections: dict[str, StrictConfig] = {"cluster": ClusterConfig(k=k)}
    inputs: dict[str, Input] = {
        "images": folder.artifact("images", None),
        "features": folder.artifact(extract.kind, 0),
    }
    return _run(cluster, sections, inputs, folder, ranks)


def cluster_iterations(ranks: Ranks, run: str, k: int, iterations: int) -> Figures:
    """Run the cluster stage on random features; also time the iterations of k-means alone."""
    spent_s: list[float] = []
    iterated = kmeans.iterate

    def timed(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401  passed on
        start = time.perf_counter()
        result = iterated(*arguments, **named)
        spent_s.append(time.perf_counter() - start)
        return result

    kmeans.iterate = timed
    folder = RunFolder(Path(run))
    sections: dict[str, StrictConfig] = {"cluster": ClusterConfig(k=k, iterations=iterations)}
    inputs: dict[str, Input] = {
        "images": folder.artifact("images", None),
        "features": folder.artifact(extract.kind, 0),
    }
    figures = _run(cluster, sections, inputs, folder, ranks)
    return figures | {"iteration_s": spent_s[0] / iterations}


def epoch_order(ranks: Ranks, scratch: str, num_images: int, k: int) -> Figures:
    """Make the order of an epoch on the first rank and map it on all; return memory and seconds."""
    private_before = _private_bytes()

    def make() -> Plan:
        # Clusters of very different sizes, as k-means finds them.
        generator = np.random.default_rng(0)
        cluster_N = np.empty(num_images, np.int32)
        for first in range(0, num_images, 1 << 22):
            some_B = cluster_N[first : first + (1 << 22)]
            some_B[:] = k * generator.beta(1, 3, len(some_B))
        order_M = uniform_order(cluster_N, k=k, num_draws=num_images, generator=generator)
        return Plan(order_M, cluster_N[None], balancing_weights(cluster_N, k=k))

    start = time.perf_counter()
    plan = shared_plan(make, Path(scratch), Path(scratch), ranks)
    seconds = time.perf_counter() - start
    # Look at all of it, in the way that training does.
    for first in range(0, num_images, 1 << 20):
        plan.cluster_HN[0][plan.order_M[first : first + (1 << 20)]].max()
    held = ranks.gather(_private_bytes() - private_before, "private memory")
    return {"seconds": seconds, "moved_bytes": 0.0, "held_bytes": float(max(held or [0]))}


def launched_stage(run: str) -> Figures:
    """Run the extract stage on two ranks by torchrun; return the seconds besides its work."""
    folder, sections = _opened(run, 64)
    config = {name: sections[name] for name in extract.sections}
    inputs: dict[str, Input] = {
        "images": folder.artifact("images", None),
        "checkpoint": folder.artifact(train.kind, EPOCH - 1),
    }
    out = folder.root / "launched"
    placement = Placement.of(folder, ComputeConfig(ranks=2, threads=1), "cpu")
    job = Job(extract, config, inputs, out, 0, EPOCH)
    start = time.perf_counter()
    placement.run(job, _context(ALONE, folder))
    seconds = time.perf_counter() - start
    working_s = read_manifest(out).seconds
    shutil.rmtree(out)
    return {"seconds": seconds - working_s, "stage_s": working_s}


def own_iterations(count: int, width: int, k: int) -> Figures:
    """Time iterations of our k-means on rows in memory."""
    rows_NQ = _unit_rows(count, width)
    points = Points(rows_NQ, range(count), count, largest=1.0)
    start = time.perf_counter()
    _, objective = iterate(points, rows_NQ[:k].copy(), iterations=ITERATIONS, seed=0)
    seconds = time.perf_counter() - start
    return {"seconds": seconds / ITERATIONS, "objective": objective[-1]}


def faiss_iterations(count: int, width: int, k: int) -> Figures:
    """Time iterations of `faiss.Kmeans` on rows in memory."""
    import faiss  # noqa: PLC0415  not needed by the ranks that only extract or train

    rows_NQ = _unit_rows(count, width)
    clustering = faiss.Kmeans(
        width, k, niter=ITERATIONS, max_points_per_centroid=count, min_points_per_centroid=1
    )
    start = time.perf_counter()
    clustering.train(rows_NQ, init_centroids=rows_NQ[:k].copy())
    seconds = time.perf_counter() - start
    assert clustering.obj is not None
    *_, objective = clustering.obj
    return {"seconds": seconds / ITERATIONS, "objective": float(objective)}


def _unit_rows(count: int, width: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return rows of length one with the structure of whitened features."""
    rows = torch.cat(list(random_blocks(count, width)))
    return torch.nn.functional.normalize(rows).numpy()


def _opened(run: str, batch_size: int) -> tuple[RunFolder, dict[str, StrictConfig]]:
    folder = RunFolder(Path(run))
    changes = {
        "dataset": {"source": str(folder.root / "source.parquet")},
        "train": {"batch_size": batch_size},
    }
    recipe = load_recipe(Path(DEMO), changes)
    names = {*extract.sections, *train.sections}
    return folder, {name: recipe.section(name) for name in names}


def _run(
    stage: StageFunction[...],
    sections: dict[str, StrictConfig],
    inputs: dict[str, Input],
    folder: RunFolder,
    ranks: Ranks,
) -> Figures:
    config = {name: sections[name] for name in stage.sections}
    out = folder.root / "measured"
    ranks.barrier("start")
    start = time.perf_counter()
    stage.make(config, inputs, out=out, context=_context(ranks, folder))
    seconds = time.perf_counter() - start
    if ranks.rank == 0:
        shutil.rmtree(out)
    return {"seconds": seconds, "moved_bytes": float(sum(ranks.moved_bytes.values()))}


def _context(ranks: Ranks, folder: RunFolder) -> Context:
    scratch = folder.root.parent / "scratch"
    return Context(seed=0, epoch=EPOCH, workers=1, ranks=ranks, scratch=scratch)


class _PrivateMemory(threading.Thread):
    """Looks again and again how much memory this process has that is not of files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            self.peak_bytes = max(self.peak_bytes, _private_bytes())
            time.sleep(SAMPLE_EVERY_S)


def _private_bytes() -> int:
    """Return the memory of this process that is not of files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def main(name: str, arguments: dict[str, Any], place: dict[str, Any]) -> None:
    """Run one rank, and write its figures."""
    if place["group"] is not None:
        Path(place["group"], "cgroup.procs").write_text(str(os.getpid()))
    keep_freed_memory()
    torch.set_num_threads(1)
    memory = _PrivateMemory()
    memory.start()
    joining: AbstractContextManager[Ranks] = nullcontext(ALONE)
    if place["size"] > 1:
        joining = joined(
            place["store"],
            rank=place["rank"],
            size=place["size"],
            local_rank=place["rank"],
            device="cpu",
            timeout_s=TIMEOUT_S,
        )
    with joining as ranks:
        figures = globals()[name](ranks, **arguments)
        ranks.barrier("end")
    record = {**figures, "private_bytes": memory.peak_bytes}
    Path(place["answer"]).write_text(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]))
