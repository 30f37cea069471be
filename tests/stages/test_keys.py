"""Keys of artifacts, which must not change: a finished run would be made again.

The keys below are those that commit 3b2e1d5, of version 0.1.0, computes for what `write_run`
writes: its own jobs and evaluations were asked for them. A stage whose results change gets a new
version, and with it other keys here. The keys of features are those of version 2 of extract, which
divides small arrays into more shards, so that several ranks can write them; the keys of labels are
those of version 2 of cluster, whose sums are exact. Nothing else about them has changed.
"""

import pytest

from benchmarks.synthetic_run import write_run
from deepcluster_core.artifacts.manifest import dump_sections, read_manifest
from deepcluster_core.config_files import CONFIGS
from deepcluster_core.training.config import PrototypesConfig
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.evaluation_job import EvaluatedRun, evaluation_job
from stages.runs.evaluation_request import EvaluationRequest
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_own_recipe
from stages.train import TrainConfig

KEYS = {
    "images": "8db46b98a764001f",
    "features/epoch=0000": "13f9689bb47dd30a",
    "labels/epoch=0000": "d28e2c5c33692ba1",
    "checkpoints/epoch=0000": "b0e95d41cbbaa41a",
    "metrics/epoch=0000": "ecad0bc01d0a4ca8",
    "features/epoch=0001": "b4acd89047f9b296",
    "labels/epoch=0001": "c18dba0a98b77890",
    "checkpoints/epoch=0001": "b646f7641103fd62",
    "metrics/epoch=0001": "35387d030026f9d8",
}
EVALUATIONS = {
    "knn": "3e8f331f9ed01621",
    "linear": "22f6f0e31cfcb1ba",
    "mlp": "686ddabdc14465eb",
    "filters": "de2a7e90cabb9e63",
    "maximal": "82b85842723f0440",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run of two epochs with the paper's settings; its artifacts hold a few bytes."""
    root = tmp_path_factory.mktemp("keys") / "run"
    return write_run(root, CONFIGS / "imagenet-alexnet.yaml", epochs=2)


def test_loop__keys_are_those_of_earlier_versions(folder: RunFolder) -> None:
    places = [folder.images(None)]
    places += [folder.artifact(kind, epoch) for epoch in range(2) for kind in EPOCH_KINDS]

    found = {str(place.relative_to(folder.root)): read_manifest(place).key for place in places}

    assert {name: key[:16] for name, key in found.items()} == KEYS


def test_dump_sections__what_parts_of_a_section_gained_is_left_out() -> None:
    train = TrainConfig(prototypes=PrototypesConfig(soft=False))

    dumped = dump_sections({"train": train})["train"]

    assert dumped["prototypes"] == {"temperature": 0.1, "bank": False}
    soft = TrainConfig(prototypes=PrototypesConfig(soft=True))
    assert dump_sections({"train": soft})["train"]["prototypes"]["soft"] is True


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluations__keys_are_those_of_earlier_versions(name: str, folder: RunFolder) -> None:
    run = EvaluatedRun(folder, load_own_recipe(folder.config), epoch=1)

    key = evaluation_job(EvaluationRequest(name=name), run, {}).key()

    assert key[:16] == EVALUATIONS[name]
