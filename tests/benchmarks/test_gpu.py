"""The GPU benchmark: its sides and targets. There is no GPU here, so the sides are made up."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.harness import Figures, Side
from benchmarks.workload import PreparedRun, Workload
from stages.runs.recipe import load_recipe


class FakeWorkload(Workload):
    def prepare(self, name: str, encoding: str, overrides: Any) -> PreparedRun:  # noqa: ANN401
        packed = {"jpeg": 40_000, "raw": 262_000, "grey": 127_000}[encoding] * self.count
        return PreparedRun(self.folder / name, dict(overrides), {"packed_bytes": packed})


def test_main__has_a_side_for_each_encoding_and_says_what_fits_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_up(side: Side) -> Figures:
        paces = {"extract_images_per_s": 7.0, "train_images_per_s": 5.0}
        return {"devices": 1, "seconds": 1.0, "peak_bytes": 1.0, **paces}

    def alternated(sides: dict[str, Side], *, repeats: int) -> dict[str, list[Figures]]:
        return {name: [made_up(side)] * repeats for name, side in sides.items()}

    def workload(folder: Path, *, count: int) -> Workload:
        return FakeWorkload(folder, count, 40_000)

    monkeypatch.setattr(Side, "run", made_up)
    monkeypatch.setattr(gpu, "alternate", alternated)
    monkeypatch.setattr(gpu, "make_workload", workload)
    monkeypatch.setattr(gpu, "available_memory", lambda: 100 * 10**9)
    out = tmp_path / "out.json"

    gpu.main(["--quick", "--json", str(out), "--repeats", "1", "--scratch", str(tmp_path)])

    found = json.loads(out.read_text())
    sides = {f"{name}, {encoding}" for name in gpu.NETWORKS for encoding in gpu.ENCODINGS}
    assert sides | {"cluster"} == set(found["summary"])
    wanted = {each["what"]: each["bound"] for each in found["targets"]}
    assert wanted["AlexNet, training, jpeg"] == gpu.TRAINING
    assert wanted["AlexNet, training, raw"] is None, "not what the recipe packs"
    assert "jpeg: 1,281,167 images like these are 51 GB, which fit into the 100 GB" in str(
        found["notes"]
    )
    assert "raw: 1,281,167 images like these are 336 GB, which do not fit" in str(found["notes"])


def test_shipped__is_the_encoding_of_the_recipe() -> None:
    recipe = load_recipe(
        Path(__file__).parents[2] / "configs" / "imagenet-alexnet.yaml",
        {"dataset": {"source": "nowhere"}},
    )
    assert recipe.dataset.encoding == gpu.SHIPPED
