"""Check whether a run fits on this machine: compare what it needs with what is free."""

from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.mirrored import mirror_of
from deepcluster_core.artifacts.resource_errors import bytes_in, free_disk
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.limits import available_memory
from deepcluster_core.text import readable_size
from stages.runs.compute import ComputeConfig, scratch_folder
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.estimate import PROCESS_BYTES, Needs
from stages.runs.folder import RunFolder


@dataclass(frozen=True)
class MachineUse:
    """How the ranks of a run use this machine."""

    device: str
    """Device that the run computes on; `cuda` if each rank has its own GPU."""
    total: int = 1
    here: int = 1
    """Ranks on this machine, which share its memory."""


def check_fits_machine(
    folder: RunFolder,
    images: Path,
    needs: Needs,
    compute: ComputeConfig,
    *,
    use: MachineUse,
    anyway: bool,
) -> str:
    """Check that a run fits on this machine; return a summary of what it needs and what is free.

    Args:
        folder: folder of the run. What it already holds need not be made.
        images: folder of its images artifact.
        needs: what the run needs, with the device and number of ranks of `use`.
        compute: where the run computes.
        use: the device, and how many ranks use this machine.
        anyway: do not raise an error.

    Raises:
        ConfigError: the run needs more than is free.
    """
    # With several ranks, the run itself is one more process.
    memory = needs.memory if use.here == 1 else needs.memory * use.here + PROCESS_BYTES
    found = [
        *_disks(folder, images, needs, compute),
        ("memory", memory, available_memory()),
    ]
    if needs.scratch:  # 0 for few images
        scratch = scratch_folder(compute)
        found.append(("scratch disk", needs.scratch * use.here, free_disk(scratch)))
    if needs.device:  # 0 on a CPU
        found.append(("GPU memory", needs.device, _free_memory_of_gpus(use)))
    # Compare each need with what is free.
    sizes: list[str] = []
    lacking: list[str] = []
    for what, need, free in found:
        sizes.append(f"{readable_size(need)} of {what} ({readable_size(free)} free)")
        if need > free:
            lacking.append(what)
    summary = ", ".join(sizes)
    if lacking and not anyway:
        raise ConfigError(
            f"{folder.address}: this run does not fit here: about {summary}.\n"
            f"  Too little: {', '.join(lacking)}. The estimate is rough, and rather too high.\n"
            f"  Fix: {_advice(lacking)}; or --yes (the flow's parameter `yes`) to try anyway."
        )
    return f"needs about {summary}"


def _disks(
    folder: RunFolder, images: Path, needs: Needs, compute: ComputeConfig
) -> list[tuple[str, int, int]]:
    """Return what a run needs of the disk and of `compute.scratch_bytes`, and what is free."""
    free = free_disk(folder.root)
    if mirror_of(folder.root) is None:
        return [("disk", disk_needed(folder, images, needs), free)]
    needed = needed_at_once(images, needs)
    missing = max(0, needed - bytes_in(folder.root))
    disks = [("disk of the mirror", missing, free)]
    if compute.scratch_bytes is not None:
        disks.append(("compute.scratch_bytes", needed, compute.scratch_bytes))
    return disks


def needed_at_once(images: Path, needs: Needs) -> int:
    """Return the bytes of a run on an object store that have to be here at the same time.

    Artifacts of earlier epochs than the last two can be deleted here.
    """
    disk = dict(needs.disk_at_once)
    # Finished images are complete, even if they are smaller than the estimate.
    disk["images"] = _bytes_of(images) or disk["images"]
    return sum(disk.values())


def _free_memory_of_gpus(use: MachineUse) -> int:
    """Return the free bytes of the GPU that has the fewest, among those of the ranks here."""
    import torch  # noqa: PLC0415  slow, and a finished run does without it

    devices = [use.device]
    if use.here > 1:
        devices = [f"cuda:{number}" for number in range(use.here)]
    return min(torch.cuda.mem_get_info(device)[0] for device in devices)


def disk_needed(folder: RunFolder, images: Path, needs: Needs) -> int:
    """Return the bytes that a run still has to write: the need of each kind, less what exists."""
    total = 0
    for kind, needed in needs.disk.items():
        if kind in EPOCH_KINDS:
            places = [folder.artifact(kind, epoch) for epoch in folder.epochs(kind)]
        else:
            places = [images]
        existing = sum(map(_bytes_of, places))
        # Finished images are complete, even if they are smaller than the estimate.
        is_complete = kind not in EPOCH_KINDS and existing > 0
        if not is_complete:
            total += max(0, needed - existing)
    return total


def _bytes_of(artifact: Path) -> int:
    """Return the size of an artifact on disk; 0 if it is missing or pruned."""
    try:
        manifest = read_manifest(artifact)
    except ArtifactError:
        return 0
    return 0 if manifest.pruned else manifest.bytes


def _advice(lacking: list[str]) -> str:
    """Return what a person can do about each resource that is too small."""
    ways = {
        "disk": "make room, give a --run on another disk, or keep less (keep.features, "
        "keep.checkpoints)",
        "disk of the mirror": "make room, or set compute.scratch to a folder on another disk",
        "scratch disk": "set compute.scratch to a folder on another disk, or "
        "cluster.max_points_per_centroid",
        "compute.scratch_bytes": "set a larger compute.scratch_bytes, or pack smaller images "
        "(dataset.shorter_side, dataset.encoding)",
        "memory": "set cluster.max_points_per_centroid or a smaller train.batch_size",
        "GPU memory": "set a smaller train.batch_size",
    }
    return "; ".join(ways[what] for what in lacking)
