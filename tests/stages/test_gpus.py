"""Stages on one GPU and on two, whose ranks talk through NCCL. Skipped on machines with fewer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepcluster_core.artifacts.file_names import MODEL
from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.stage import Input, StageFunction
from stages.cluster import ClusterConfig, cluster
from stages.extract import ExtractConfig, extract
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.launch.placement import Placement
from stages.train import TrainConfig, train
from tests.margins import SEED
from tests.support.ranked_stage import notes, ranked_job

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
EPOCH = Context(seed=SEED, epoch=0, workers=1)


def made(
    stage: StageFunction[...],
    config: dict[str, StrictConfig],
    inputs: dict[str, Input],
    out: Path,
    num_ranks: int,
) -> Manifest:
    """Run a stage on the first GPUs, one for each rank; return the manifest of its artifact."""
    compute = ComputeConfig(device="cuda", ranks=num_ranks, threads=1)
    placement = Placement.of(RunFolder(out.parent / "run"), compute, "cuda")
    job = Job(stage, config, inputs, out, SEED, 0)
    context = Context(seed=SEED, epoch=0, device="cuda", workers=1, scratch=out.parent / "scratch")
    placement.run(job, context)
    return read_manifest(out)


def epoch(
    images: Path, network: NetworkConfig, folder: Path, num_ranks: int
) -> tuple[Manifest, Manifest, Manifest]:
    """Make the artifacts of an epoch."""
    features, labels = folder / "features", folder / "labels"
    extraction = ExtractConfig(resize=20, precision="float32", batch_size=32)
    training = TrainConfig(batch_size=32, lr=0.01, balance="weigh", precision="float32")
    none = {"checkpoint": None}
    return (
        made(
            extract,
            {"extract": extraction, "network": network},
            {"images": images, **none},
            features,
            num_ranks,
        ),
        made(
            cluster,
            {"cluster": ClusterConfig(k=8, pca_dim=16)},
            {"images": images, "features": features, "previous": None},
            labels,
            num_ranks,
        ),
        made(
            train,
            {"train": training, "network": network},
            {"images": images, "labels": labels, **none},
            folder / "checkpoint",
            num_ranks,
        ),
    )


def test_epoch__one_gpu_makes_the_same_bytes_again(
    images: Path, network: NetworkConfig, tmp_path: Path
) -> None:
    first = epoch(images, network, tmp_path / "first", 1)
    again = epoch(images, network, tmp_path / "again", 1)

    features, labels, checkpoint = first
    assert features.digest == again[0].digest
    assert labels.digest == again[1].digest
    assert checkpoint.peak_device_bytes
    assert checkpoint.provenance.device != "cpu"


@needs_two
def test_epoch__two_gpus_make_the_artifacts_of_one(
    images: Path, network: NetworkConfig, tmp_path: Path
) -> None:
    one = epoch(images, network, tmp_path / "one", 1)
    two = epoch(images, network, tmp_path / "two", 2)

    assert [manifest.ranks for manifest in two] == [2, 2, 2]
    assert two[0].digest == one[0].digest, "features"
    assert two[1].digest == one[1].digest, "labels"
    assert two[2].facts["loss"] == pytest.approx(one[2].facts["loss"], abs=1e-4)
    found, expected = (load_file(tmp_path / name / "checkpoint" / MODEL) for name in ("two", "one"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-3, msg=name)


@needs_two
def test_ranks__each_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    compute = ComputeConfig(device="cuda", ranks=2, threads=1)
    placement = Placement.of(RunFolder(tmp_path / "run"), compute, "cuda")

    placement.run(ranked_job(tmp_path / "out"), EPOCH)

    assert [(note[0], note[-1]) for note in notes(tmp_path / "out")] == [
        ("0", "cuda:0"),
        ("1", "cuda:1"),
    ]
