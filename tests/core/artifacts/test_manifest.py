"""Keys, digests and the condition of what lies on disk."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcluster_core.artifacts.commit import UNFINISHED, new_artifact, prune
from deepcluster_core.artifacts.manifest import (
    MANIFEST,
    Condition,
    Stage,
    artifact_key,
    digest_of,
    dump_sections,
    inspect,
    read_manifest,
    validated_manifest,
)
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError

STAGE = Stage(name="group", version=1, kind="groups", files=("table",))


class GroupConfig(StrictConfig):
    k: int = 5
    rate: float = 0.1


def key(changed: dict[str, Any] | None = None) -> str:
    arguments: dict[str, Any] = {
        "stage": STAGE,
        "config": {"group": GroupConfig()},
        "inputs": {"images": "aa", "features": "bb"},
        "seed": 31,
        "epoch": 4,
    }
    return artifact_key(**arguments | (changed or {}))


@pytest.mark.parametrize(
    "changed",
    [
        {"config": {"group": GroupConfig(k=6)}},
        {"config": {"group": GroupConfig(rate=0.2)}},
        {"config": {"cluster": GroupConfig()}},
        {"config": {}},
        {"inputs": {"images": "ab", "features": "bb"}},
        {"inputs": {"images": "bb", "features": "aa"}},
        {"inputs": {"images": "aa"}},
        {"seed": 32},
        {"epoch": 5},
        {"epoch": None},
        {"epoch": 0},
        {"stage": replace(STAGE, version=2)},
        {"stage": replace(STAGE, name="regroup")},
    ],
    ids=str,
)
def test_artifact_key__changes_with_all_that_decides_the_artifact(changed: dict[str, Any]) -> None:
    assert key(changed) != key()


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": {"features": "bb", "images": "aa"}},
        {"config": {"group": GroupConfig(rate=1e-1)}},
        {"stage": replace(STAGE, kind="others")},
    ],
    ids=str,
)
def test_artifact_key__changes_with_nothing_else(changed: dict[str, Any]) -> None:
    assert key(changed) == key()


def test_artifact_key__stays_what_it_was_in_earlier_versions_of_the_program() -> None:
    # With another spelling every run on disk would be computed again. If that is meant, change it.
    spelled = (
        '{"config":{"group":{"k":5,"rate":0.1}},"epoch":4,'
        '"inputs":{"features":"bb","images":"aa"},"seed":31,"stage":["group",1]}'
    )
    assert key() == hashlib.sha256(spelled.encode()).hexdigest()


class FileConfig(StrictConfig):
    absent_when_none = frozenset(("weights",))
    by_contents = frozenset(("weights",))
    weights: Path | None = None


def test_artifact_key__depends_on_the_contents_of_a_file_and_not_on_its_path(
    tmp_path: Path,
) -> None:
    first, second, other = tmp_path / "first", tmp_path / "second", tmp_path / "other"
    first.write_text("weights")
    second.write_text("weights")
    other.write_text("weightz")

    def key_of(path: Path | None) -> str:
        return key({"config": {"network": FileConfig(weights=path)}})

    assert key_of(first) == key_of(second) != key_of(other)
    assert key_of(None) == key({"config": {"network": StrictConfig()}})
    before = key_of(first)
    first.write_text("changed")
    assert key_of(first) != before


def test_dump_sections__represents_a_file_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    sha256 = hashlib.sha256(b"abc").hexdigest()

    dumped = dump_sections({"network": FileConfig(weights=path)})

    assert dumped == {"network": {"weights": f"sha256:{sha256}"}}


def test_dump_sections__says_which_file_is_gone(tmp_path: Path) -> None:
    config = {"network": FileConfig(weights=tmp_path / "gone")}

    with pytest.raises(ArtifactError, match=r"network.weights: .*gone cannot be read[\s\S]*Fix:"):
        dump_sections(config)


def test_new_artifact__records_the_file_that_it_began_with(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    config = {"network": FileConfig(weights=path)}

    with new_artifact(
        STAGE, tmp_path / "out", config=config, inputs={}, context=Context(seed=1)
    ) as draft:
        path.unlink()
        (draft.folder / "note.txt").write_text("")

    sha256 = hashlib.sha256(b"abc").hexdigest()
    assert read_manifest(tmp_path / "out").config["network"] == {"weights": f"sha256:{sha256}"}


arguments_of_a_key = st.fixed_dictionaries(
    {
        "config": st.builds(
            lambda k, rate: {"group": GroupConfig(k=k, rate=rate)},
            st.integers(0, 1),
            st.sampled_from([0.1, 0.2, 1e-5]),
        ),
        "inputs": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2),
        "seed": st.integers(0, 1),
        "epoch": st.none() | st.integers(0, 1),
    }
)


@given(arguments_of_a_key, arguments_of_a_key)
def test_artifact_key__same_exactly_when_the_arguments_are(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (artifact_key(STAGE, **one) == artifact_key(STAGE, **other)) == (one == other)


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text(), max_size=5))
def test_digest_of__ignores_the_order_of_keys(value: dict[str, object]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))


# What `inspect` finds


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """Return a finished artifact of a file and a folder with another file."""
    folder = tmp_path / "groups"
    with new_artifact(STAGE, folder, config={}, inputs={}, context=Context(seed=1)):
        (folder / "deep").mkdir()
        (folder / "deep" / "table.bin").write_bytes(b"0123456789")
        (folder / "note.txt").write_text("kept")
    return folder


def touch(path: Path) -> None:
    """Give a file a time of change other than the committed one."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))


def test_inspect__whole(artifact: Path) -> None:
    assert inspect(artifact) == (Condition.WHOLE, "")


def test_inspect__missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert inspect(tmp_path / "absent")[0] is Condition.MISSING
    assert inspect(tmp_path / "empty")[0] is Condition.MISSING


def test_inspect__unfinished_without_a_manifest(artifact: Path) -> None:
    (artifact / MANIFEST).unlink()

    assert inspect(artifact)[0] is Condition.UNFINISHED


def test_inspect__damaged_by_another_byte(artifact: Path) -> None:
    path = artifact / "deep" / "table.bin"
    path.write_bytes(b"0123456780")
    touch(path)

    condition, why = inspect(artifact)

    assert condition is Condition.DAMAGED
    assert why.startswith("deep/table.bin: its contents changed")


def test_inspect__damaged_by_a_cut(artifact: Path) -> None:
    (artifact / "deep" / "table.bin").write_bytes(b"01234")

    assert inspect(artifact) == (
        Condition.DAMAGED,
        "deep/table.bin: 5 bytes instead of 10",
    )


def test_inspect__damaged_by_a_deleted_file(artifact: Path) -> None:
    (artifact / "note.txt").unlink()

    assert inspect(artifact) == (Condition.DAMAGED, "note.txt: the file is missing")


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[]", b'{"stage": "group"}'])
def test_inspect__damaged_manifest(artifact: Path, garbage: bytes) -> None:
    (artifact / MANIFEST).write_bytes(garbage)

    condition, why = inspect(artifact)

    assert condition is Condition.DAMAGED
    assert MANIFEST in why


def test_inspect__damaged_manifest_of_a_later_format(artifact: Path) -> None:
    text = (artifact / MANIFEST).read_text()
    (artifact / MANIFEST).write_text(text.replace('"format": 1', '"format": 3'))

    assert inspect(artifact)[0] is Condition.DAMAGED


def test_inspect__pruned(artifact: Path) -> None:
    prune(artifact)

    assert inspect(artifact)[0] is Condition.PRUNED


def test_inspect__a_copy_with_other_times_is_whole(artifact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    for path in (copy / "note.txt", copy / "deep" / "table.bin"):
        touch(path)

    assert inspect(copy) == (Condition.WHOLE, "")


def test_inspect__files_beside_the_artifact_do_not_matter(artifact: Path) -> None:
    (artifact / ".DS_Store").write_bytes(b"x")

    assert inspect(artifact)[0] is Condition.WHOLE


def test_read_manifest__says_which_stage_made_what(artifact: Path) -> None:
    manifest = read_manifest(artifact)

    assert (manifest.stage, manifest.version, manifest.seed) == ("group", 1, 1)
    assert set(manifest.files) == {"deep/table.bin", "note.txt"}
    assert UNFINISHED not in manifest.files
    assert manifest.bytes == 14


def test_read_manifest__refuses_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"does not hold a finished artifact \(_manifest.json"):
        read_manifest(tmp_path)


def test_manifest__attempt_is_absent_from_local_runs(tmp_path: Path) -> None:
    """So that the bytes of local manifests stay as they are, and older programs can read them."""
    context = Context(seed=0, epoch=0, device="cpu")
    with new_artifact(STAGE, tmp_path, config={}, inputs={}, context=context) as draft:
        (tmp_path / "table").write_bytes(b"rows")
        draft.rows = 1
    local = read_manifest(tmp_path)

    remote = local.model_copy(update={"attempt": "an id"}).sealed()

    assert '"attempt"' not in (tmp_path / MANIFEST).read_text()
    assert remote.is_intact()
    assert validated_manifest("remote", remote.model_dump_json().encode()) == remote
    assert (remote.key, remote.digest) == (local.key, local.digest)
    assert not remote.model_copy(update={"attempt": "another"}).is_intact()
