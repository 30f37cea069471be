"""Several ranks extract the same features as one, to the byte."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.ranks import Ranks
from stages.extract import ExtractConfig, extract
from tests.support.ranks import on_ranks

CONTEXT = Context(seed=31, epoch=0)
BATCH = 16


class Cut(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def extracted(
    images: Path,
    network: NetworkConfig,
    checkpoint: Path,
    out: Path,
    *,
    size: int = 1,
    cut_at: int = 10**6,
    shard_bytes: int = 0,
    layer: str | None = None,
) -> dict[str, str]:
    """Let ranks extract features; return the digest of each file.

    They are cut after so many images, when one of the shards is whole, which all but the last have
    the same size.
    """

    def progress(done: int, total: int | None) -> None:
        # Shards are written in threads of their own, and the first may come late.
        if done >= cut_at and (done == total or has_shard()):
            raise Cut

    def has_shard() -> bool:
        return any(path.stat().st_size == shard_bytes for path in out.rglob("c/*/0"))

    def work(ranks: Ranks) -> None:
        extract.run(
            extract=ExtractConfig(resize=20, batch_size=BATCH, precision="float32", layer=layer),
            network=network,
            images=images,
            checkpoint=checkpoint,
            out=out,
            context=replace(CONTEXT, ranks=ranks, progress=progress),
        )

    on_ranks(size, work)
    return {name: record.sha256 for name, record in read_manifest(out).files.items()}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("layer", [None, "conv2"])
def test_extract__any_number_of_ranks_writes_the_same_bytes(
    images: Path,
    network: NetworkConfig,
    checkpoint: Path,
    tmp_path: Path,
    size: int,
    layer: str | None,
) -> None:
    alone = extracted(images, network, checkpoint, tmp_path / "alone", layer=layer)
    together = extracted(images, network, checkpoint, tmp_path / "together", size=size, layer=layer)

    assert len(alone) == 9, "8 shards and the description"
    assert together == alone
    assert inspect(tmp_path / "together")[0] is Condition.WHOLE
    one, many = (read_manifest(tmp_path / name) for name in ("alone", "together"))
    assert (one.key, one.digest, one.facts, one.rows) == (
        many.key,
        many.digest,
        many.facts,
        many.rows,
    )


@pytest.mark.parametrize(("before", "after"), [(4, 2), (1, 3), (3, 1), (2, 5)])
def test_extract__goes_on_with_another_number_of_ranks(
    images: Path, network: NetworkConfig, checkpoint: Path, tmp_path: Path, before: int, after: int
) -> None:
    whole = extracted(images, network, checkpoint, tmp_path / "whole")
    out = tmp_path / "cut"
    shard_bytes = (tmp_path / "whole/features.zarr/c/0/0").stat().st_size
    cut = partial(extracted, size=before, cut_at=160, shard_bytes=shard_bytes)
    with pytest.raises(Cut):
        cut(images, network, checkpoint, out)
    assert inspect(out)[0] is Condition.UNFINISHED
    stored = {path: path.stat().st_mtime_ns for path in out.rglob("c/*/0")}

    assert extracted(images, network, checkpoint, out, size=after) == whole

    kept = [path for path, written in stored.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= 1, "shards that were on disk are not written again"
    assert not list(out.glob("_saved*"))
