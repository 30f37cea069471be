"""The flow `deepcluster-evaluate` and its command, on the real server and a real run."""

import subprocess
import tomllib
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from deepcluster_core.artifacts.manifest import digest_of, read_manifest
from deepcluster_core.errors import ArtifactError, ConfigError, DeepClusterError
from flows.evaluate import evaluate
from flows.show.results import show_results
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import read_results
from stages.runs.evaluation_request import EvaluationRequest
from stages.runs.evaluations import EVALUATIONS
from tests.support.drawn_landmarks import draw_landmarks
from tests.support.drawn_shapes import draw_images
from tests.support.flow_runs import call, recorded_tasks
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.run_files import contents

REPOSITORY = Path(__file__).parents[2]
QUICK: dict[str, Any] = {"ks": [1, 5]}


def knn(run: Path, **parameters: Any) -> dict[str, str]:  # noqa: ANN401  of the flow
    return call(evaluate, name="knn", run=str(run), **{"overrides": QUICK} | parameters)


def test_evaluate__untouched_run_is_cached(own_run: Path) -> None:
    assert knn(own_run) == {"knn epoch 2": "Completed"}
    made = contents(own_run / "evaluations")

    assert knn(own_run) == {"knn epoch 2": "Cached"}
    assert contents(own_run / "evaluations") == made


def test_evaluate__leaves_a_table_that_carries_its_protocol(own_run: Path) -> None:
    knn(own_run, epoch=1)

    folder = own_run / "evaluations/knn/epoch=0001"
    rows = read_results(folder)
    protocol = load_protocol(PROTOCOLS / "knn.yaml", EVALUATIONS["knn"].protocol, QUICK)
    assert [(row["network"], row["k"]) for row in rows] == [
        *(("random", 1), ("random", 5)),
        *(("epoch 1", 1), ("epoch 1", 5)),
    ]
    assert {row["protocol"] for row in rows} == {digest_of(protocol.model_dump(mode="json"))}
    made = read_manifest(folder)
    assert made.stage == "knn"
    assert made.inputs["checkpoint"] == read_manifest(own_run / "checkpoints/epoch=0001").digest


def test_evaluate__result_of_another_protocol_is_not_replaced_unasked(own_run: Path) -> None:
    knn(own_run)
    before = contents(own_run / "evaluations")
    other = {"ks": [1, 5], "temperature": 0.1}

    with pytest.raises(ConfigError, match=r"Changed: temperature 0\.07 -> 0\.1\n.*--as NAME"):
        knn(own_run, overrides=other)
    assert contents(own_run / "evaluations") == before

    knn(own_run, overrides=other, result="knn-warm")
    assert {path.name for path in (own_run / "evaluations").iterdir()} == {"knn", "knn-warm"}
    assert knn(own_run, overrides=other, update=True) == {"knn epoch 2": "Completed"}


def test_evaluate__other_images_are_indexed_once_and_their_labels_count(
    own_run: Path, tmp_path: Path
) -> None:
    training = draw_images(tmp_path / "training", per_class=20, seed=1)
    validation = draw_images(tmp_path / "validation", per_class=5, seed=2)
    sources = {"data": str(training), "validation": str(validation)}

    first = knn(own_run, **sources)
    again = knn(own_run, **sources)

    assert sorted(first) == ["index", "knn epoch 2"]
    assert set(again.values()) == {"Cached"}
    made = read_manifest(own_run / "evaluations/knn/epoch=0002")
    sizes = {read_manifest(path).rows for path in (own_run / "evaluations/_data").glob("*/")}
    assert sizes == {80, 20}
    assert {"images", "validation", "checkpoint"} <= made.inputs.keys()


def test_evaluate__machine_is_chosen_for_the_evaluation_alone(own_run: Path) -> None:
    config = (own_run / "config.yaml").read_text()

    with pytest.raises(ConfigError, match=r"process runs one rank, not compute\.ranks = 2"):
        knn(own_run, compute={"ranks": 2, "launcher": "process"})
    with pytest.raises(ConfigError, match=r"compute: .*\n.*rank: unknown key"):
        knn(own_run, compute={"rank": 2})
    knn(own_run, compute={"device": "cpu"})

    assert (own_run / "config.yaml").read_text() == config
    assert knn(own_run) == {"knn epoch 2": "Cached"}, "it is part of no key"


@pytest.mark.slow
def test_evaluate_command__on_two_ranks(own_run: Path) -> None:
    two = ["--set", "compute.ranks=2", "--set", "compute.threads=1"]
    quick = ["--set", "epochs=1", "--set", "weight_decays=[0.0001]"]

    printed = ""
    for command in (["knn", "--set", "ks=[1]"], ["linear", *quick], ["nmi"]):
        name, *keys = command
        done = subprocess.run(
            [PROGRAM, "evaluate", name, own_run, *keys, *two],
            env=ENVIRONMENT,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
        printed += " ".join(done.stdout.split())

    ranks = {
        name: read_manifest(own_run / f"evaluations/{name}/epoch=0002").ranks
        for name in ("knn", "linear", "nmi")
    }
    assert ranks == {"knn": 2, "linear": 2, "nmi": None}
    assert "linear on 2 ranks: the first one trains the classifiers" in printed
    assert "nmi runs on one rank, in the process of the run, not on 2" in printed
    assert "knn on 2 ranks" not in printed


def test_evaluate__supervised_weights_are_one_more_row(own_run: Path) -> None:
    weights = own_run / "checkpoints/epoch=0000/model.safetensors"

    knn(own_run, supervised=str(weights))
    rows = read_results(own_run / "evaluations/knn/epoch=0002")
    knn(own_run, epoch=0)
    of_epoch_0 = read_results(own_run / "evaluations/knn/epoch=0000")

    given = [row["top1"] for row in rows if row["network"] == "supervised"]
    assert given == [row["top1"] for row in of_epoch_0 if row["network"] == "epoch 0"]


@pytest.mark.slow
def test_evaluate__reads_data_sets_as_they_are_distributed(own_run: Path, tmp_path: Path) -> None:
    oxford = draw_landmarks(tmp_path / "oxford")
    small = {"long_side": 64, "dims": 16}
    asked = {"name": "retrieval", "run": str(own_run), "data": str(oxford), "overrides": small}

    assert call(evaluate, **asked) == {"retrieval epoch 2": "Completed"}
    assert call(evaluate, **asked) == {"retrieval epoch 2": "Cached"}
    rows = read_results(own_run / "evaluations/retrieval/epoch=0002")
    assert [row["network"] for row in rows] == ["random", "epoch 2"]
    next(oxford.rglob("*.jpg")).touch()
    with pytest.raises(ConfigError, match=r"already holds a result made with different settings"):
        call(evaluate, **asked)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epoch": 7}, r"--epoch 7: is not trained in finished; epochs 0 to 2 are"),
        ({"overrides": {"kk": 1}}, r"kk: unknown key; known here: ks, "),
        ({"overrides": {"temperature": 0.0}}, r"temperature: Input should be greater than 0"),
        ({"protocol": "nowhere.yaml"}, r"nowhere\.yaml: this protocol does not exist"),
        ({"name": "nmi", "overrides": {}, "data": "x"}, r"--data: nmi does not read it"),
        ({"name": "retrieval", "overrides": {}}, r"retrieval needs --data DIR"),
        ({"result": "../knn"}, r"--as \.\./knn: must be a plain name"),
        ({"supervised": "nowhere.safetensors"}, r"nowhere\.safetensors: the weights trained"),
        ({"data": "nowhere"}, r"nowhere: does not exist"),
    ],
)
def test_evaluate__refuses_and_changes_nothing(
    finished_run: Path, parameters: dict[str, Any], message: str
) -> None:
    before = contents(finished_run)
    asked: dict[str, Any] = {"name": "knn", "run": str(finished_run)} | parameters

    with pytest.raises(DeepClusterError, match=f"(?s){message}"):
        evaluate(**asked)

    assert contents(finished_run) == before


def test_evaluate__damaged_result_is_made_again(own_run: Path) -> None:
    knn(own_run)
    table = own_run / "evaluations/knn/epoch=0002/results.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-30])
    with pytest.raises(ArtifactError, match="bytes instead of"):
        read_results(table.parent)

    assert knn(own_run) == {"knn epoch 2": "Completed"}
    assert table.read_bytes() == whole


def test_evaluate__shows_table_and_pictures_in_the_ui(own_run: Path) -> None:
    state = evaluate(name="filters", run=str(own_run), return_state=True)

    assert state.state_details.flow_run_id is not None
    shown = ui_artifacts(state.state_details.flow_run_id)
    assert shown["run-filters"].type == "table"
    assert str(shown["run-filters-filters"].data).startswith("data:image/png;base64,")


def ui_artifacts(flow_run_id: UUID) -> dict[str, Any]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        recorded_tasks(client, flow_run_id)
        return {found.key or "": found for found in client.read_artifacts(artifact_filter=of_run)}


def test_deployments__have_what_prefect_shows_and_limits() -> None:
    settings = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    for deployment in settings["deployments"]:
        assert deployment["version"] == project["version"]
        assert deployment["tags"] == ["deepcluster"]
        assert deployment["concurrency_limit"] == 1
        assert deployment["work_pool"] == {"name": "local"}
        assert "schedules" not in deployment, "nothing runs by itself"


def test_deployments__one_for_all_evaluations_and_aliases() -> None:
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    (first, *aliases) = [one for one in deployments if "evaluate" in one["entrypoint"]]

    assert first["name"] == "evaluate"
    assert "parameters" not in first
    assert len(aliases) == 13
    for alias in aliases:
        assert alias["parameters"] == {"name": alias["name"]}
        assert alias["description"] == EVALUATIONS[alias["name"]].describe(alias["name"])
        assert (alias["entrypoint"], alias["work_pool"]) == (
            first["entrypoint"],
            first["work_pool"],
        )


def test_parameters__are_the_fields_of_the_request() -> None:
    parameters = evaluate.parameters.model_dump_for_openapi()

    assert list(parameters["properties"]) == list(EvaluationRequest.model_fields)
    assert parameters["required"] == ["name"]
    assert parameters["properties"]["name"]["enum"] == sorted(EVALUATIONS)
    for name, field in EvaluationRequest.model_fields.items():
        text = parameters["properties"][name]["description"]
        assert text == " ".join((field.description or "").split())


def test_evaluations__each_has_a_protocol_with_every_number() -> None:
    for name, evaluation in EVALUATIONS.items():
        written = yaml.safe_load((PROTOCOLS / f"{name}.yaml").read_text())
        assert written.keys() == evaluation.protocol.model_fields.keys()
        assert all(field.is_required() for field in evaluation.protocol.model_fields.values())
        assert evaluation.stage.kind == f"evaluations/{name.removesuffix('-all')}"


def test_show_results__names_every_file(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluate(name="filters", run=str(own_run))

    show_results(Path(folder))

    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].endswith("filters.png"), "pictures last, not above the table"
    assert 'results.parquet")' in printed
    assert read_results(Path(folder))[0]["protocol"][:12] in printed
