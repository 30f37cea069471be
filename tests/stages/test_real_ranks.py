"""Real ranks, which talk through gloo, extract and cluster to the bytes of a single one."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.clustering.nearest import UNIT_ROWS
from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.ranks import ALONE, Ranks
from stages.cluster import ClusterConfig, cluster
from stages.extract import ExtractConfig, extract
from tests.support.gloo import on_processes
from tests.support.many_rows import write_rows

NUM_ROWS = 2 * UNIT_ROWS + 500
"""Three units of rows for two ranks: shares of different sizes."""


@dataclass(frozen=True)
class Work:
    """Two stages of an epoch, each with inputs of its own."""

    images: Path
    network: NetworkConfig
    rows: Path
    """Folder with images and features of many rows, which no network has made."""

    def run(self, ranks: Ranks, out: Path) -> None:
        """Make features of the small images, and clusters of the many rows."""
        torch.set_num_threads(1)
        context = Context(seed=31, epoch=0, ranks=ranks)
        extract.run(
            extract=ExtractConfig(resize=20, batch_size=16, precision="float32"),
            network=self.network,
            images=self.images,
            checkpoint=None,
            out=out / "features",
            context=context,
        )
        cluster.run(
            cluster=ClusterConfig(k=12, pca_dim=24, iterations=4),
            images=self.rows / "images",
            features=self.rows / "features",
            out=out / "labels",
            context=replace(context, seed=5),
        )


@pytest.mark.slow
def test_run__two_real_ranks_make_the_bytes_of_one(
    images: Path, network: NetworkConfig, tmp_path: Path
) -> None:
    rows = tmp_path / "rows"
    write_rows(rows, NUM_ROWS, dim=32)
    work = Work(images, network, rows)
    (tmp_path / "two").mkdir()

    work.run(ALONE, tmp_path / "one")
    assert on_processes(2, partial(_work, work), tmp_path / "two") == [None, None]

    for name in ("features", "labels"):
        one, two = (read_manifest(tmp_path / folder / name) for folder in ("one", "two"))
        assert (two.key, two.digest, two.facts) == (one.key, one.digest, one.facts), name
        assert (one.ranks, two.ranks) == (None, 2)


def _work(work: Work, ranks: Ranks, folder: Path) -> None:
    work.run(ranks, folder)
