"""What table 2 costs, on a small network."""

import json
from pathlib import Path

import pytest

from benchmarks import transfer
from benchmarks.transfer_sides import write_trees
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.runs.evaluations import EVALUATIONS
from tests.support.tiny_benchmark import TINY


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_transfer__hours_are_seconds_of_a_step_at_full_length(tmp_path: Path) -> None:
    networks, steps = {"alexnet": TINY["network"]}, {"voc-classification": 6}
    out = tmp_path / "out.json"
    arguments = ["--quick", "--json", str(out), "--repeats", "1", "--scratch", str(tmp_path)]

    transfer.main(arguments, networks=networks, full_steps=steps)

    found = json.loads(out.read_text())
    figures = found["summary"]["voc-classification"]
    assert figures["hours"]["median"] == pytest.approx(figures["step_s"]["median"] * 80_000 / 3600)
    column, total = (target["value"] for target in found["targets"])
    assert column == total == figures["hours"]["median"]


def test_write_trees__has_what_every_column_reads(tmp_path: Path) -> None:
    write_trees(folder=str(tmp_path), count=20)
    for name in transfer.STEPS:
        declared = EVALUATIONS[name]
        assert declared.fingerprint is not None
        protocol = load_protocol(PROTOCOLS / f"{name}.yaml", declared.protocol, {})
        assert declared.fingerprint(tmp_path, protocol)
