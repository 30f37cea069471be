"""A stage that is cut short goes on where it was saved, and ends with the same bytes."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.saved import SAVED
from deepcluster_core.context import Context, SaveEvery
from deepcluster_core.models.config import NetworkConfig
from stages.cluster import ClusterConfig, cluster
from stages.extract import ExtractConfig, extract
from stages.index import DatasetConfig, index
from stages.train import TrainConfig, train
from tests.support.program import Program
from tests.support.run_files import learnt
from tests.support.timeouts import WITHIN_S

NETWORK = NetworkConfig(name="smallnet", image_size=16)
CONTEXT = Context(seed=31, epoch=0)
BATCH = 16


class Cut(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def cut_at(image: int, seen: list[int]) -> Callable[[int, int | None], None]:
    """Return a progress hook that notes what it is told, and fails at an image."""

    def progress(done: int, total: int | None) -> None:
        seen.append(done)
        if done >= image:
            raise Cut

    return progress


def saving(image: int, seen: list[int]) -> Context:
    """Return a context that saves every second step, and is cut off at an image."""
    return replace(CONTEXT, progress=cut_at(image, seen), save_every=SaveEvery(steps=2))


@pytest.fixture(scope="module")
def images(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = DatasetConfig(source=tiny_images, shorter_side=16, channels=1, encoding="raw")
    out = tmp_path_factory.mktemp("mid-epoch") / "images"
    index.run(dataset=dataset, source="s", out=out, context=Context(seed=31))
    return out


def extracted(images: Path, out: Path, context: Context = CONTEXT) -> Path:
    config = ExtractConfig(resize=16, batch_size=BATCH, precision="float32")
    extract.run(
        extract=config, network=NETWORK, images=images, checkpoint=None, out=out, context=context
    )
    return out


@pytest.fixture(scope="module")
def labels(images: Path) -> Path:
    rows = extracted(images, images.with_name("features"))
    out = images.with_name("labels")
    config = ClusterConfig(k=8, pca_dim=8)
    cluster.run(cluster=config, images=images, features=rows, out=out, context=CONTEXT)
    return out


def trained(images: Path, labels: Path, out: Path, context: Context, lr: float = 0.05) -> Path:
    train.run(
        train=TrainConfig(batch_size=BATCH, lr=lr, balance="weigh"),
        network=NETWORK,
        images=images,
        labels=labels,
        checkpoint=None,
        out=out,
        context=context,
    )
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "_manifest.json"
    }


def test_train__goes_on_at_the_next_step(images: Path, labels: Path, tmp_path: Path) -> None:
    whole = trained(images, labels, tmp_path / "whole", CONTEXT)
    seen: list[int] = []
    with pytest.raises(Cut):
        trained(images, labels, tmp_path / "cut", saving(7 * BATCH, seen))

    seen.clear()
    cut = trained(images, labels, tmp_path / "cut", saving(10_000, seen))

    assert seen[0] == 7 * BATCH, "six steps had been saved"
    assert files(cut) == files(whole)
    assert read_manifest(cut).facts == read_manifest(whole).facts


def test_train__other_settings_begin_anew(images: Path, labels: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(Cut):
        trained(images, labels, tmp_path / "cut", saving(7 * BATCH, seen))

    seen.clear()
    context = replace(CONTEXT, progress=cut_at(10_000, seen))
    cut = trained(images, labels, tmp_path / "cut", context, lr=0.01)

    assert seen[0] == BATCH
    assert files(cut) == files(trained(images, labels, tmp_path / "whole", CONTEXT, lr=0.01))


@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_train__damaged_save_is_not_used(
    images: Path, labels: Path, tmp_path: Path, harm: str
) -> None:
    seen: list[int] = []
    with pytest.raises(Cut):
        trained(images, labels, tmp_path / "cut", saving(7 * BATCH, seen))
    (state,) = (tmp_path / "cut").glob("*.safetensors")
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    match harm:
        case "flip":
            state.write_bytes(data)
        case "cut":
            state.write_bytes(data[:-1])
        case _:
            state.unlink()

    seen.clear()
    cut = trained(images, labels, tmp_path / "cut", replace(CONTEXT, progress=cut_at(10**6, seen)))

    assert seen[0] == BATCH, "from the beginning"
    assert files(cut) == files(trained(images, labels, tmp_path / "whole", CONTEXT))


def test_extract__goes_on_with_the_missing_shards(images: Path, tmp_path: Path) -> None:
    whole = extracted(images, tmp_path / "whole")
    seen: list[int] = []
    with pytest.raises(Cut):
        extracted(images, tmp_path / "cut", replace(CONTEXT, progress=cut_at(12 * BATCH, seen)))
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("c/*/0")}
    assert (tmp_path / "cut" / SAVED).exists()

    seen.clear()
    cut = extracted(images, tmp_path / "cut", replace(CONTEXT, progress=cut_at(10**6, seen)))

    assert seen[0] > 4 * BATCH, "the first batches were not computed again"
    kept = [path for path, written in stored.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= 3
    assert files(cut) == files(whole)
    assert read_manifest(cut).facts == read_manifest(whole).facts


@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "longer"])
def test_extract__only_the_damaged_shard_is_written_again(
    images: Path, tmp_path: Path, harm: str
) -> None:
    seen: list[int] = []
    with pytest.raises(Cut):
        extracted(images, tmp_path / "cut", replace(CONTEXT, progress=cut_at(12 * BATCH, seen)))
    shards = tmp_path / "cut" / "features.zarr" / "c"
    shard = shards / "2" / "0"
    neighbour_written = (shards / "3" / "0").stat().st_mtime_ns
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    match harm:
        case "flip":
            shard.write_bytes(data)
        case "cut":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "longer":
            shard.write_bytes(shard.read_bytes() + b"x")
        case _:
            shard.unlink()

    cut = extracted(images, tmp_path / "cut")

    assert files(cut) == files(extracted(images, tmp_path / "whole"))
    assert (shards / "3" / "0").stat().st_mtime_ns == neighbour_written


def test_extract__damaged_description_of_the_array_is_written_again(
    images: Path, tmp_path: Path
) -> None:
    with pytest.raises(Cut):
        extracted(images, tmp_path / "cut", replace(CONTEXT, progress=cut_at(12 * BATCH, [])))
    (tmp_path / "cut" / "features.zarr" / "zarr.json").write_bytes(b"")

    cut = extracted(images, tmp_path / "cut")

    assert files(cut) == files(extracted(images, tmp_path / "whole"))


def test_extract__other_settings_keep_no_shard(images: Path, tmp_path: Path) -> None:
    with pytest.raises(Cut):
        extracted(images, tmp_path / "cut", replace(CONTEXT, progress=cut_at(12 * BATCH, [])))
    other = replace(CONTEXT, seed=32)

    cut = extracted(images, tmp_path / "cut", other)

    assert files(cut) == files(extracted(images, tmp_path / "whole", other))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code"),
    [pytest.param(signal.SIGINT, 130, id="Ctrl-C"), pytest.param(signal.SIGTERM, 143, id="TERM")],
)
def test_run__told_to_end_saves_and_says_how_to_go_on(
    program: Program, undisturbed: Program, number: int, exit_code: int
) -> None:
    process = program.start()
    saved = program.run / "checkpoints" / "epoch=0000" / SAVED
    deadline = time.monotonic() + WITHIN_S
    while not saved.exists():  # at the fourth of thirty steps
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=WITHIN_S)

    assert process.returncode == exit_code, output
    command = f"deepcluster run {program.recipe} --run {program.run}"
    assert output.endswith(f"Go on from here with\n  {command}\n")
    assert "Traceback" not in output
    assert saved.exists(), "before the epoch was done"

    assert "0 of them Cached" not in program.finish()

    assert learnt(program.run) == learnt(undisturbed.run)
