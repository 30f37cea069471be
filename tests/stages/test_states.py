from pathlib import Path

import pytest
import yaml

from benchmarks.synthetic_run import write_run
from deepcluster_core.artifacts.file_names import LABELS
from deepcluster_core.artifacts.manifest import MANIFEST, Condition, Manifest
from deepcluster_core.errors import ConfigError
from stages.runs.evaluation_job import trained_epoch
from stages.runs.folder import RunFolder
from stages.runs.past_run import PastRun
from stages.runs.states import STALE, states_of

RECIPE = """
dataset: {source: ., channels: 1}
network: {name: smallnet, image_size: 16}
cluster: {k: 8, pca_dim: 8}
train: {}
keep: {features: 1}
"""
EPOCHS = 3


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Return a run of which everything was made; its files hold nothing."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    return write_run(tmp_path / "run", recipe, epochs=EPOCHS)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list of all manifests that are parsed from now on."""
    found: list[bytes] = []
    parse = Manifest.model_validate_json

    def counted(data: bytes) -> Manifest:
        found.append(data)
        return parse(data)

    monkeypatch.setattr(Manifest, "model_validate_json", counted)
    return found


def conditions(folder: RunFolder) -> dict[tuple[str, int | None], str]:
    return {(state.kind, state.epoch): str(state.condition) for state in states_of(folder)}


def test_states_of__every_artifact_is_whole_or_pruned(folder: RunFolder) -> None:
    found = conditions(folder)

    assert len(found) == 1 + 4 * EPOCHS
    assert {key for key, condition in found.items() if condition == Condition.PRUNED} == {
        ("features", epoch) for epoch in range(EPOCHS - 1)
    }
    assert set(found.values()) == {Condition.WHOLE, Condition.PRUNED}


def test_states_of__parses_no_manifest_twice(folder: RunFolder, parsed: list[bytes]) -> None:
    before = states_of(folder)
    parsed.clear()

    assert states_of(folder) == before
    assert parsed == []


def test_states_of__parses_again_what_has_changed(folder: RunFolder, parsed: list[bytes]) -> None:
    states_of(folder)
    manifest = folder.artifact("metrics", 1) / MANIFEST
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    parsed.clear()
    states_of(folder)

    assert len(parsed) == 1


def test_states_of__notices_later_damage(folder: RunFolder) -> None:
    assert conditions(folder)["labels", 1] == Condition.WHOLE
    table = folder.artifact("labels", 1) / LABELS
    table.write_text(table.read_text().upper())

    assert conditions(folder)["labels", 1] == Condition.DAMAGED
    table.unlink()
    assert conditions(folder)["labels", 1] == Condition.DAMAGED


def test_states_of__notices_that_an_input_was_replaced(folder: RunFolder) -> None:
    assert conditions(folder)["checkpoints", 1] == Condition.WHOLE
    manifest = folder.artifact("labels", 1) / MANIFEST
    other = Manifest.model_validate_json(manifest.read_bytes())
    changed = other.model_copy(update={"digest": "another"}).sealed()
    manifest.write_text(changed.model_dump_json())

    found = conditions(folder)
    assert found["labels", 1] == Condition.WHOLE
    assert found["checkpoints", 1] == found["metrics", 1] == STALE


def test_past_run__takes_no_epoch_after_the_last_one_of_the_recipe(folder: RunFolder) -> None:
    """A run that was called with fewer epochs than before keeps the later ones on disk."""
    recipe = yaml.safe_load(folder.config.read_text())
    folder.config.write_text(yaml.safe_dump(recipe | {"epochs": EPOCHS - 1}))
    past = PastRun.open(str(folder.root))

    assert past.epoch("labels", None) == EPOCHS - 2
    assert past.epoch("checkpoints", None) == EPOCHS - 2
    assert past.scored() == list(range(EPOCHS - 1))
    assert trained_epoch(folder, past.recipe, None) == EPOCHS - 2
    with pytest.raises(ConfigError, match="--epoch 2: is not trained"):
        trained_epoch(folder, past.recipe, EPOCHS - 1)


@pytest.mark.parametrize(("shorter_side", "is_fed"), [(16, True), (None, False)])
def test_past_run__does_not_feed_images_of_any_size_to_a_device(
    shorter_side: int | None, is_fed: bool, folder: RunFolder
) -> None:
    recipe = yaml.safe_load(folder.config.read_text())
    recipe["dataset"]["shorter_side"] = shorter_side
    recipe["compute"] = {"device": "cpu", "feed": "device"}
    folder.config.write_text(yaml.safe_dump(recipe))

    assert PastRun.open(str(folder.root)).is_fed_on_device == is_fed
