"""Prefect's records in the folder of a run: ours are read, those of others never."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from prefect.serializers import JSONSerializer

from flows.prefect_.task_records import drop_foreign
from tests.support.flow_runs import KEEP_ALL, in_state, loop

JSON = JSONSerializer().model_dump()
RESULT = json.dumps({"key": "k", "digest": "d"})


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def record(serializer: dict[str, Any], result: str, **others: object) -> str:
    metadata = {"storage_key": None, "expiration": None, "serializer": serializer} | others
    return json.dumps({"metadata": metadata, "result": result}, separators=(",", ":"))


def pickled(proof: Path) -> str:
    bomb = base64.encodebytes(pickle.dumps(Bomb(proof))).decode()
    return record({"type": "pickle", "picklelib": "pickle"}, bomb)


def called(proof: Path) -> str:
    """A value of a class is made by calling it."""
    return record(JSON, json.dumps({"__class__": "os.mkdir", "data": [str(proof)]}))


@pytest.mark.parametrize("hostile", [pickled, pytest.param(called, marks=pytest.mark.slow)])
def test_loop__hostile_records_run_no_code(
    hostile: Any,  # noqa: ANN401
    recipe: Path,
    own_run: Path,
    tmp_path: Path,
) -> None:
    proof = tmp_path / "code-ran"
    for path in (own_run / ".prefect").iterdir():
        if path.is_file():
            path.write_text(hostile(proof))

    first = loop(recipe, own_run, overrides=KEEP_ALL)
    second = loop(recipe, own_run, overrides=KEEP_ALL)

    assert not proof.exists()
    assert set(first.values()) == {"Completed"}, "the records were dropped, the artifacts not made"
    assert len(in_state(second, "Cached")) == len(second), "ours are back"


def test_drop_foreign__keeps_what_prefect_wrote(own_run: Path) -> None:
    records = [path for path in (own_run / ".prefect").iterdir() if path.is_file()]
    assert len(records) == 13

    for path in records:
        drop_foreign(path)

    assert all(path.exists() for path in records)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 10_000,
        record({"type": "pickle"}, RESULT),
        record(JSON | {"jsonlib": "os"}, RESULT),
        record(JSON | {"object_decoder": "os.system"}, RESULT),
        record(JSON, '{"key": "k", "digest": {"__class__": "os.mkdir", "data": ["x"]}}'),
        record(JSON, '{"key": {"__class__": "x", "data": 1}, "key": "k", "digest": "d"}'),
        record(JSON, json.dumps({"__exc_type__": "x", "message": "m"})),
        record(JSON, RESULT)[:-1] + ',"serializer":{"type":"pickle"}}',
        record(JSON, RESULT).replace("{", '{"metadata":{"serializer":{"type":"pickle"}},', 1),
        json.dumps({"metadata": {"serializer": JSON}, "result": 5}, separators=(",", ":")),
    ],
)
def test_drop_foreign__deletes_what_could_be_read_otherwise(text: str) -> None:
    Path("record").write_text(text)
    Path("ours").write_text(record(JSON, RESULT))

    for name in ("record", "ours", "none"):
        drop_foreign(Path(name))

    assert list(Path().iterdir()) == [Path("ours")]


def test_drop_foreign__deletes_bytes_that_are_no_text() -> None:
    Path("record").write_bytes(b"\xff\x80")

    drop_foreign(Path("record"))

    assert not Path("record").exists()
