"""Run folders that hold nothing but labels, which a test has made up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import write_manifest
from deepcluster_core.artifacts.file_names import LABELS
from deepcluster_core.artifacts.files import record_files
from deepcluster_core.artifacts.manifest import Manifest, Provenance, digest_of
from stages.runs.folder import RunFolder

PROVENANCE = Provenance(
    created="", code_version="0", git_commit=None, python="3", libraries={}, device="cpu"
)


def run_with_labels(
    root: Path, clusters: Sequence[NDArray[np.integer]], *, reverse: bool = False
) -> RunFolder:
    """Return a run with labels of an epoch for each array of clusters.

    Args:
        root: folder of the run.
        clusters: the clusters of the images at each epoch.
        reverse: give the first path to the last image, and so on.
    """
    run = RunFolder(root)
    for epoch, cluster_N in enumerate(clusters):
        run.artifact("labels", epoch).mkdir(parents=True)
        replace_labels(run, epoch, cluster_N, reverse=reverse)
    return run


def replace_labels(
    run: RunFolder, epoch: int, cluster_N: NDArray[np.integer], *, reverse: bool = False
) -> None:
    """Write the labels of an epoch, as if they were clustered anew."""
    folder = run.artifact("labels", epoch)
    image_id_N = np.arange(len(cluster_N))
    numbers = image_id_N[::-1] if reverse else image_id_N
    columns = {
        "image_id": image_id_N,
        "path": [f"{number}.png" for number in numbers],
        "cluster": cluster_N.astype(np.int32),
        "distance": np.zeros(len(cluster_N), np.float32),
    }
    pd.DataFrame(columns).to_parquet(folder / LABELS)
    files = record_files(folder, [folder / LABELS])
    manifest = Manifest(
        stage="cluster",
        version=1,
        key="",
        digest=digest_of({name: record.sha256 for name, record in files.items()}),
        inputs={},
        config={},
        seed=0,
        epoch=epoch,
        rows=len(cluster_N),
        bytes=0,
        seconds=0,
        peak_memory_bytes=0,
        facts={"k": int(cluster_N.max()) + 1},
        files=files,
        provenance=PROVENANCE,
    )
    write_manifest(folder, manifest)
