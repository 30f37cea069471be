"""How an artifact comes into being, also when its process is killed on the way."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepcluster_core.artifacts.commit import (
    new_artifact,
    prune,
)
from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.manifest import (
    MANIFEST,
    Condition,
    Manifest,
    inspect,
    read_manifest,
)
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError
from deepcluster_core.stage import digests_of
from tests.support.text_artifacts import STAGE, commit


def fail(folder: Path) -> None:
    """Attempt an artifact and break off after its first file."""
    with pytest.raises(RuntimeError, match="power cut"):
        write_half(folder)


def write_half(folder: Path) -> None:
    with new_artifact(STAGE, folder, config={}, inputs={}, context=Context(seed=1)):
        (folder / "half").write_text("half")
        raise RuntimeError("power cut")


def test_new_artifact__goes_on_without_what_a_kill_left_half_written(tmp_path: Path) -> None:
    undisturbed = attempt_with_save(tmp_path / "undisturbed")
    with pytest.raises(RuntimeError, match="power cut"):
        attempt_with_save(tmp_path / "cut", cut_short=True)
    names = {path.name for path in (tmp_path / "cut").rglob("*")}
    assert names >= {"table", "row", ".tmpNHYuJf", "zarr.0a1b.partial", "_saved-half"}

    resumed = attempt_with_save(tmp_path / "cut")

    assert sorted(resumed.files) == ["table/row"]
    assert resumed.digest == undisturbed.digest
    assert not [path for path in (tmp_path / "cut").rglob("*") if "tmp" in path.name]


def attempt_with_save(folder: Path, *, cut_short: bool = False) -> Manifest:
    with new_artifact(STAGE, folder, config={}, inputs={}, context=Context(seed=1)) as draft:
        if draft.saved is None:
            (folder / "table").mkdir()
            (folder / "table" / "row").write_text("durable")
            draft.save({"rows": 1}, {"half": lambda path: path.write_text("state")})
        if cut_short:
            (folder / ".tmpNHYuJf").write_text("safetensors calls it so")
            (folder / "table" / "zarr.0a1b.partial").write_text("and zarr so")
            raise RuntimeError("power cut")
    return read_manifest(folder)


# Digest and key


def test_new_artifact__same_contents_same_digest(tmp_path: Path) -> None:
    one = commit(tmp_path / "1", {"a": "x", "b/c": "y"}, context=Context(seed=1))
    other = commit(tmp_path / "2", {"b/c": "y", "a": "x"}, context=Context(seed=2, epoch=3))

    assert one.digest == other.digest
    assert one.key != other.key


@pytest.mark.parametrize("files", [{"a": "y"}, {"b": "x"}, {"a": "x", "b": ""}, {"d/a": "x"}])
def test_new_artifact__other_contents_other_digest(tmp_path: Path, files: dict[str, str]) -> None:
    assert commit(tmp_path / "1", files).digest != commit(tmp_path / "2", {"a": "x"}).digest


def test_new_artifact__place_takes_no_part_in_the_key(tmp_path: Path) -> None:
    here = commit(tmp_path / "1", {"a": "x"}, context=Context(seed=1, device="cpu", workers=1))
    there = commit(tmp_path / "2", {"a": "x"}, context=Context(seed=1, device="cuda:1", workers=9))

    assert (here.key, here.digest) == (there.key, there.digest)
    assert there.provenance.device == "cuda:1"


def test_new_artifact__inputs_take_part_by_their_digest(tmp_path: Path) -> None:
    first = commit(tmp_path / "first", {"a": "x"})
    twin = commit(tmp_path / "twin", {"a": "x"}, context=Context(seed=99))
    other = commit(tmp_path / "other", {"a": "z"})

    by_first, by_twin, by_digest, by_other = (
        commit(tmp_path / "out", {}, inputs=digests_of({"images": images, "checkpoint": None}))
        for images in (tmp_path / "first", tmp_path / "twin", twin.digest, tmp_path / "other")
    )

    assert by_first.inputs == {"images": first.digest}, "an input that is None takes no part"
    assert by_first.key == by_twin.key == by_digest.key
    assert by_other.key != by_first.key
    assert by_other.inputs == {"images": other.digest}


def test_new_artifact__manifest_says_what_it_was_made_from(tmp_path: Path) -> None:
    manifest = commit(tmp_path / "out", {"a": "xyz"}, context=Context(seed=7, epoch=2))

    assert (manifest.seed, manifest.epoch, manifest.rows, manifest.bytes) == (7, 2, 1, 3)
    assert manifest.config == {"group": {"k": 5}}
    assert manifest.facts == {"names": ["a"]}
    assert manifest.seconds >= 0
    assert manifest.peak_memory_bytes > 10_000_000, "an interpreter alone takes more"
    assert manifest.peak_device_bytes is None, "a CPU has no memory of its own"
    assert {"torch", "numpy", "zarr", "pyarrow"} <= set(manifest.provenance.libraries)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_new_artifact__peak_of_the_device_is_that_of_the_block(tmp_path: Path) -> None:
    def peak_of(num_bytes: int) -> int:
        on_gpu = Context(seed=1, device="cuda")
        with new_artifact(STAGE, tmp_path / "out", config={}, inputs={}, context=on_gpu):
            torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
        return read_manifest(tmp_path / "out").peak_device_bytes or 0

    held = torch.empty(1 << 20, device="cuda")
    large, small = peak_of(64 << 20), peak_of(8 << 20)

    assert large - small == 56 << 20
    assert small >= (8 << 20) + held.nbytes


def test_new_artifact__all_is_durable_before_the_manifest_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    out, fsync = tmp_path / "out", os.fsync

    def noted(file: int) -> None:
        fsync(file)
        if not (out / MANIFEST).exists():
            synced.append(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    commit(out, {"a": "x", "deep/b": "y"})

    found = [out / "a", out / "deep" / "b", out / "deep", out / MANIFEST]
    assert {path.stat().st_ino for path in found} <= set(synced), "folders hold the names"


# Broken off, begun again


def test_new_artifact__block_that_raises_leaves_no_artifact(tmp_path: Path) -> None:
    fail(tmp_path / "out")

    assert not (tmp_path / "out" / MANIFEST).exists()
    assert inspect(tmp_path / "out")[0] is Condition.UNFINISHED
    assert (tmp_path / "out" / "half").exists(), "what was written stays to be looked at"


def test_new_artifact__next_attempt_clears_the_last(tmp_path: Path) -> None:
    fail(tmp_path / "out")

    commit(tmp_path / "out", {"a": "x"})

    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", MANIFEST}
    assert inspect(tmp_path / "out")[0] is Condition.WHOLE


def test_new_artifact__failed_attempt_over_a_finished_one_leaves_none(tmp_path: Path) -> None:
    commit(tmp_path / "out", {"a": "x", "half": "whole"})

    fail(tmp_path / "out")

    assert inspect(tmp_path / "out")[0] is Condition.UNFINISHED
    assert not (tmp_path / "out" / "a").exists()


def test_new_artifact__input_that_is_no_artifact_leaves_the_old_output(tmp_path: Path) -> None:
    commit(tmp_path / "out", {"a": "x"})

    with pytest.raises(ArtifactError, match="does not hold a finished artifact"):
        commit(tmp_path / "out", {"a": "y"}, inputs=digests_of({"images": tmp_path / "absent"}))

    assert inspect(tmp_path / "out")[0] is Condition.WHOLE
    assert (tmp_path / "out" / "a").read_text() == "x"


def test_new_artifact__never_deletes_foreign_files(tmp_path: Path) -> None:
    thesis = tmp_path / "out" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("five years of work")

    with pytest.raises(ArtifactError, match="files that no stage made"):
        commit(tmp_path / "out", {"a": "x"})

    assert thesis.read_text() == "five years of work"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_new_artifact__clears_what_lost_its_manifest(tmp_path: Path) -> None:
    # People delete a manifest to have a stage run again; what is left has the stage's own names.
    commit(tmp_path / "out", {"table": "old"})
    (tmp_path / "out" / MANIFEST).unlink()

    commit(tmp_path / "out", {"table": "new"})

    assert inspect(tmp_path / "out")[0] is Condition.WHOLE
    assert (tmp_path / "out" / "table").read_text() == "new"


def test_new_artifact__clears_a_link_but_not_what_it_points_to(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "data").write_text("mine")
    commit(tmp_path / "out", {"a": "x"})
    (tmp_path / "out" / "a").unlink()
    (tmp_path / "out" / "a").symlink_to(elsewhere)

    commit(tmp_path / "out", {"a": "x"})

    assert not (tmp_path / "out" / "a").is_symlink()
    assert (elsewhere / "data").read_text() == "mine"


def test_new_artifact__never_takes_the_place_of_another_stage(tmp_path: Path) -> None:
    other = replace(STAGE, name="other")
    commit(tmp_path / "out", {"a": "x"})

    with (
        pytest.raises(ArtifactError, match="would be deleted"),
        new_artifact(other, tmp_path / "out", config={}, inputs={}, context=Context(seed=1)),
    ):
        pass

    assert inspect(tmp_path / "out")[0] is Condition.WHOLE


def test_new_artifact__never_deletes_notes_beside_an_artifact(tmp_path: Path) -> None:
    commit(tmp_path / "out", {"a": "x"})
    (tmp_path / "out" / "notes.txt").write_text("mine")

    with pytest.raises(ArtifactError, match="would be deleted"):
        commit(tmp_path / "out", {"a": "y"})

    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


# Pruned


def test_prune__keeps_the_digest_and_only_the_manifest(tmp_path: Path) -> None:
    whole = commit(tmp_path / "out", {"a": "x", "deep/b": "y"})

    prune(tmp_path / "out")

    assert [path.name for path in (tmp_path / "out").iterdir()] == [MANIFEST]
    pruned = read_manifest(tmp_path / "out")
    assert pruned.pruned
    assert pruned.model_copy(update={"pruned": False, "checksum": whole.checksum}) == whole


def test_prune__what_reads_a_pruned_artifact_keeps_its_key(tmp_path: Path) -> None:
    commit(tmp_path / "in", {"a": "x"})
    before = commit(tmp_path / "out", {}, inputs=digests_of({"images": tmp_path / "in"}))

    prune(tmp_path / "in")

    assert (
        commit(tmp_path / "out", {}, inputs=digests_of({"images": tmp_path / "in"})).key
        == before.key
    )


def test_write_atomically__replaces_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "note"
    for text in (b"long first text", b"short"):
        write_atomically(path, text)

    assert path.read_bytes() == b"short"
    assert [found.name for found in tmp_path.iterdir()] == ["note"]


def test_write_atomically__deletes_what_dead_writers_left(tmp_path: Path) -> None:
    path = tmp_path / "note"
    left, in_work = tmp_path / "note.1.part", tmp_path / "note.2.part"
    for part in (left, in_work):
        part.write_bytes(b"half")
    os.utime(left, (0, 0))

    write_atomically(path, b"whole")

    assert sorted(found.name for found in tmp_path.iterdir()) == ["note", "note.2.part"]


# Several processes


def test_new_artifact__manifest_is_plain_json(tmp_path: Path) -> None:
    commit(tmp_path / "out", {"a": "x"})

    loaded = json.loads((tmp_path / "out" / MANIFEST).read_text())

    assert loaded["stage"] == "group"
    assert loaded["files"]["a"]["bytes"] == 1
