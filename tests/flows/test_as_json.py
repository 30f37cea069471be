"""What `--json` prints has the documented fields, and is JSON alone."""

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.errors import ConfigError
from flows.show.as_json import cluster_as_json, print_json, run_as_json, sweep_as_json
from stages.runs.folder import RunFolder
from tests.support.documentation import DOCS
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S

DOCUMENTED = set(re.findall(r"`(\w+)`", (DOCS / "reference/json.md").read_text(encoding="utf-8")))


def printed(value: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    print_json(value)
    return json.loads(capsys.readouterr().out)


def test_run_as_json__has_epochs_metrics_and_artifacts(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(run_as_json(RunFolder(finished_run), None), capsys)

    assert set(found) <= DOCUMENTED
    assert found["format"] == 1
    assert found["run"] == str(finished_run)
    assert [one["epoch"] for one in found["epochs"]] == [0, 1, 2]
    last = found["epochs"][-1]
    assert set(last) <= DOCUMENTED
    assert last["metrics"]["loss"] > 0
    assert set(last["artifacts"]) == {"features", "labels", "checkpoints", "metrics"}
    labels = last["artifacts"]["labels"]
    assert set(labels) <= DOCUMENTED
    assert (labels["condition"], labels["rows"]) == ("whole", 240)
    assert found["images"]["seconds"] > 0


def test_run_as_json__of_one_epoch(finished_run: Path) -> None:
    found = run_as_json(RunFolder(finished_run), 1)

    assert [one["epoch"] for one in found["epochs"]] == [1]
    with pytest.raises(ConfigError, match="--epoch 7"):
        run_as_json(RunFolder(finished_run), 7)


def test_cluster_as_json__nearest_first(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(cluster_as_json(RunFolder(finished_run), 2, 0, limit=3), capsys)

    assert set(found) <= DOCUMENTED
    distances = [image["distance"] for image in found["images"]]
    assert len(distances) == min(3, found["size"])
    assert distances == sorted(distances)


def test_sweep_as_json__has_a_row_for_each_run_and_epoch(finished_sweep: Path) -> None:
    rows = sweep_as_json(finished_sweep)["rows"]

    assert {(row["k"], row["epoch"]) for row in rows} == {(4, 0), (4, 1), (8, 0), (8, 1)}


def test_print_json__has_null_for_what_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed({"values": [math.nan, math.inf, 1.5]}, capsys)

    assert found == {"format": 1, "values": [None, None, 1.5]}


@pytest.mark.slow
def test_command__evaluate_prints_json_alone(own_run: Path, prefect_server: str) -> None:
    command = [PROGRAM, "evaluate", "nmi", own_run, "--json"]
    environment = ENVIRONMENT | {"PREFECT_API_URL": prefect_server}

    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=True
    )

    found = json.loads(ended.stdout)
    assert set(found) <= DOCUMENTED
    (result,) = found["results"]
    assert set(result) <= DOCUMENTED
    assert [row["epoch"] for row in result["rows"]] == [0, 1, 2]


@pytest.mark.parametrize("option", ["--json", "--epoch=0", "--set=k=1", "--update"])
def test_command__tables_are_files_and_read_no_other_option(
    option: str, finished_run: Path
) -> None:
    command = [PROGRAM, "evaluate", "table1", finished_run, option]

    ended = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )

    assert ended.returncode == 2
    assert option.partition("=")[0] in ended.stderr
    assert "Fix: --out table1.csv" in ended.stderr
