"""How several ranks make an artifact together."""

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import pytest

from deepcluster_core.artifacts import commit
from deepcluster_core.artifacts.commit import UNFINISHED, Draft, new_artifact
from deepcluster_core.artifacts.files import FileRecord, record_files
from deepcluster_core.artifacts.manifest import (
    MANIFEST,
    Condition,
    Manifest,
    Stage,
    inspect,
    read_manifest,
)
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError
from deepcluster_core.ranks import Ranks, own_rows
from tests.support.ranks import on_ranks

STAGE = Stage(name="group", version=1, kind="groups", files=("table",))


class PowerCut(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def made_by(size: int, folder: Path, write: Callable[[Draft], None]) -> Manifest:
    """Let several ranks make an artifact together."""

    def work(ranks: Ranks) -> None:
        context = Context(seed=1, ranks=ranks)
        with new_artifact(STAGE, folder, config={}, inputs={}, context=context) as draft:
            write(draft)

    on_ranks(size, work)
    return read_manifest(folder)


def write_own(draft: Draft) -> None:
    """Write a file for each of six units, and one that no rank names."""
    ranks = draft.context.ranks
    if ranks.rank == 0:
        (draft.folder / "table").mkdir()
        (draft.folder / "table" / "head").write_text("of all")
    ranks.barrier("folder")
    for number in own_rows(6, ranks, unit=1):
        path = draft.folder / "table" / str(number)
        path.write_text(f"unit {number}")
        draft.wrote(path)
    draft.rows = 6 + ranks.rank
    draft.facts["rank"] = ranks.rank


@pytest.mark.parametrize("size", [2, 3, 8])
def test_new_artifact__has_the_same_files_for_any_number_of_ranks(
    tmp_path: Path, size: int
) -> None:
    alone = made_by(1, tmp_path / "alone", write_own)
    together = made_by(size, tmp_path / "together", write_own)

    assert inspect(tmp_path / "together")[0] is Condition.WHOLE
    assert [path.name for path in (tmp_path / "together").iterdir()].count(UNFINISHED) == 0
    assert list(together.files) == list(alone.files)
    assert (together.key, together.digest) == (alone.key, alone.digest)
    assert (together.rows, together.facts) == (6, {"rank": 0}), "those of the first rank"
    assert (alone.ranks, together.ranks) == (None, size)


def test_new_artifact__files_are_hashed_by_the_ranks_that_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names_by_thread: dict[int, set[str]] = {}

    def noted(folder: Path, found: Iterable[Path]) -> dict[str, FileRecord]:
        records = record_files(folder, found)
        names_by_thread.setdefault(threading.get_ident(), set()).update(records)
        return records

    monkeypatch.setattr(commit, "record_files", noted)
    made_by(2, tmp_path / "out", write_own)

    first, second = sorted(names_by_thread.values(), key=len, reverse=True)
    assert first == {"table/head", "table/0", "table/1", "table/2"}
    assert second == {"table/3", "table/4", "table/5"}


def test_new_artifact__records_the_most_that_any_rank_used(tmp_path: Path) -> None:
    def use(draft: Draft) -> None:
        ranks = draft.context.ranks
        cast("dict[str, int]", ranks.moved_bytes)["gradients"] = 100 + ranks.rank

    assert made_by(3, tmp_path / "out", use).moved_bytes == {"gradients": 102}


@pytest.mark.parametrize("broken", [0, 2])
def test_new_artifact__error_on_one_rank_leaves_no_artifact(tmp_path: Path, broken: int) -> None:
    def fail_on_one(draft: Draft) -> None:
        write_own(draft)
        if draft.context.ranks.rank == broken:
            raise PowerCut

    with pytest.raises(PowerCut):
        made_by(3, tmp_path / "out", fail_on_one)

    assert inspect(tmp_path / "out")[0] is Condition.UNFINISHED
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_new_artifact__file_that_a_rank_names_but_lacks_leaves_no_artifact(tmp_path: Path) -> None:
    def claim(draft: Draft) -> None:
        draft.wrote(draft.folder / "absent")

    with pytest.raises(AssertionError, match="does not exist"):
        made_by(2, tmp_path / "out", claim)

    assert inspect(tmp_path / "out")[0] is Condition.UNFINISHED


def test_new_artifact__refusal_of_the_first_rank_is_raised_on_all(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("five years of work")

    def begin(ranks: Ranks) -> str:
        context = Context(seed=1, ranks=ranks)
        with (
            pytest.raises(ArtifactError, match="files that no stage made") as caught,
            new_artifact(STAGE, tmp_path / "out", config={}, inputs={}, context=context),
        ):
            pass
        return str(caught.value)

    assert len(set(on_ranks(3, begin))) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_new_artifact__all_ranks_get_the_save_that_the_first_has_written(tmp_path: Path) -> None:
    def save(draft: Draft) -> None:
        assert draft.saved is None
        rank = draft.context.ranks.rank
        draft.save({"rank": rank}, {str(rank): lambda path: path.write_text("state")})
        draft.context.ranks.barrier("saved")
        raise PowerCut

    with pytest.raises(PowerCut):
        made_by(3, tmp_path / "out", save)

    assert [path.name for path in (tmp_path / "out").glob("_saved-*")] == ["_saved-0"]

    def check(draft: Draft) -> None:
        assert draft.saved is not None
        assert draft.saved.facts == {"rank": 0}

    made_by(2, tmp_path / "out", check)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MANIFEST}


def test_manifest__of_one_process_has_the_fields_of_format_1(tmp_path: Path) -> None:
    made_by(1, tmp_path / "out", write_own)

    fields = json.loads((tmp_path / "out" / MANIFEST).read_text())

    assert fields["format"] == 1, "which earlier versions of the program read"
    assert not {"ranks", "moved_bytes"} & set(fields)


def test_manifest__of_several_ranks_is_of_format_2(tmp_path: Path) -> None:
    made_by(2, tmp_path / "out", write_own)

    fields = json.loads((tmp_path / "out" / MANIFEST).read_text())

    assert (fields["format"], fields["ranks"], fields["moved_bytes"]) == (2, 2, {})
