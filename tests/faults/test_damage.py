"""Bytes that change on the disk are noticed before anything uses them, whatever file has them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcluster_core.artifacts import files as committed
from deepcluster_core.artifacts.checkpoints import load_momentum
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import Condition, inspect
from deepcluster_core.artifacts.tables import read_clustering, read_labels, read_metrics
from deepcluster_core.errors import ArtifactError
from stages.runs.folder import RunFolder
from stages.runs.states import states_of
from tests.support.program import Program
from tests.support.run_files import learnt

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all

FILES = (
    "images/_manifest.json",
    "images/index.parquet",
    "images/skipped.parquet",
    "images/pixels/part-00000.arrow",
    "features/epoch=0001/_manifest.json",
    "features/epoch=0001/features.zarr/zarr.json",
    *(f"features/epoch=0001/features.zarr/c/{shard}/0" for shard in range(8)),
    "labels/epoch=0001/_manifest.json",
    "labels/epoch=0001/labels.parquet",
    "labels/epoch=0001/_clustering.safetensors",
    "checkpoints/epoch=0001/_manifest.json",
    "checkpoints/epoch=0001/model.safetensors",
    "checkpoints/epoch=0001/momentum.safetensors",
    "metrics/epoch=0001/_manifest.json",
    "metrics/epoch=0001/metrics.parquet",
)
EXAMPLES = 60
HARMS = ("flip", "cut", "delete")


@pytest.fixture(scope="module")
def run(undisturbed: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a finished run that every example harms and heals."""
    copy = tmp_path_factory.mktemp("damage") / "run"
    return shutil.copytree(undisturbed.run, copy)  # with the times of the files


def test_files__are_all_that_an_epoch_makes(run: Path) -> None:
    found = {
        path.relative_to(run).as_posix()
        for folder in (run / "images", *run.glob("*/epoch=0001"))
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == set(FILES)


def harm(
    path: Path, how: str, place: float, bit: int, *, keeps_time: bool = False
) -> Callable[[], None]:
    """Damage a file as a failing disk does; return what heals it.

    Args:
        path: of the file.
        how: of `HARMS`.
        place: where in the file, 0 to 1.
        bit: which of that byte is flipped.
        keeps_time: leave the time of big files, too, which are looked at by it.
    """
    data, times = path.read_bytes(), path.stat()
    at = int(place * len(data))
    match how:
        case "flip":
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
        case "cut":
            path.write_bytes(data[:at])
        case _:
            path.unlink()
    if how != "delete" and (keeps_time or len(data) <= committed.HASHED_ALWAYS_BYTES):
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    committed.sha256_at.cache_clear()  # another process would look anew

    def heal() -> None:
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        committed.sha256_at.cache_clear()

    return heal


@given(
    name=st.sampled_from(FILES),
    how=st.sampled_from(HARMS),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_inspect__notices_any_damage_and_names_the_file(
    run: Path, name: str, how: str, place: float, bit: int
) -> None:
    heal = harm(run / name, how, place, bit)
    try:
        harmed = [state for state in states_of(RunFolder(run)) if state.condition != "whole"]
    finally:
        heal()

    kind = name.partition("/")[0]
    worst = next(state for state in harmed if state.kind == kind)
    assert worst.condition in (Condition.DAMAGED, Condition.UNFINISHED)
    if not name.endswith("_manifest.json"):
        assert name.removeprefix(f"{worst.folder.relative_to(run)}/") in worst.reason
    for state in harmed:
        assert state is worst or state.condition == "stale", "the others are not damaged"


READERS: dict[str, Callable[[Path], object]] = {
    "images/index.parquet": lambda folder: Images(folder).true_labels(),
    "images/pixels/part-00000.arrow": lambda folder: [
        Images(folder).verified(i).tobytes() for i in range(240)
    ],
    "features/epoch=0001/features.zarr/c/0/0": lambda folder: [
        rows_BD.tobytes() for rows_BD in Features(folder).blocks()
    ],
    "labels/epoch=0001/labels.parquet": read_labels,
    "labels/epoch=0001/_clustering.safetensors": read_clustering,
    "checkpoints/epoch=0001/momentum.safetensors": load_momentum,
    "metrics/epoch=0001/metrics.parquet": read_metrics,
}


@given(
    name=st.sampled_from(sorted(READERS)),
    how=st.sampled_from(HARMS),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_readers__never_return_what_was_not_written(
    run: Path, name: str, how: str, place: float, bit: int
) -> None:
    """Big files are not hashed when a run looks at them: reading them has to notice."""
    folder = run.joinpath(*Path(name).parts[: 1 if name.startswith("images") else 2])
    read = READERS[name]
    wanted = repr(read(folder))
    heal = harm(run / name, how, place, bit, keeps_time=True)
    try:
        said = _read_or_error(read, folder)
    finally:
        heal()
    assert said == wanted or (str(folder) in said and "Fix:" in said)


def _read_or_error(read: Callable[[Path], object], folder: Path) -> str:
    try:
        return repr(read(folder))
    except ArtifactError as error:
        return str(error)


def test_inspect__takes_a_big_file_as_unchanged_by_its_time(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committed, "HASHED_ALWAYS_BYTES", 0)
    folder = run / "checkpoints/epoch=0001"
    heal = harm(folder / "momentum.safetensors", "flip", 0.5, 0, keeps_time=True)
    try:
        assert inspect(folder)[0] is Condition.WHOLE, "hashing terabytes at every start is no use"
        with pytest.raises(ArtifactError, match=r"momentum.safetensors: its contents changed"):
            load_momentum(folder)
    finally:
        heal()


def test_run__makes_only_what_was_damaged_again(
    undisturbed: Program, run: Path, tmp_path: Path
) -> None:
    again = Program(undisturbed.recipe, shutil.copytree(run, tmp_path / "run"), undisturbed.home)
    state = again.run / "checkpoints/epoch=0001/model.safetensors"
    state.write_bytes(b"\0" + state.read_bytes()[1:])
    (again.run / "features/epoch=0000/features.zarr/c/0/0").unlink()

    output = again.finish()

    # Score reads of a checkpoint its digest alone, and that is what it was.
    assert "9 stages, 7 of them Cached" in output
    assert learnt(again.run) == learnt(undisturbed.run)
