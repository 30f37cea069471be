"""URLs where a path belongs: refused by name, and no folder `s3:` is made."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from typer.models import OptionInfo

from flows.cli import main as cli
from flows.cli.evaluation import evaluation
from flows.cli.results import results
from flows.stage_rerun import rerun
from stages.runs.evaluation_request import EvaluationRequest
from stages.runs.settled import resolve
from tests.support.recipes import write_small_recipe
from tests.support.refusals import Refused, typed

URL, OTHER_URL = "s3://bucket/x", "https://host/x"
"""A place on an object store, where runs can be; and one where nothing can be."""
ON_A_STORE = ("run", "runs", "first", "second", "source", "data", "validation")
"""Names of the parameters that are runs or images, which can be on an object store."""
# What is given for other arguments and options that are needed.
GIVEN = {"ks": "2,3", "name": "knn"}


COMMANDS = {
    info.callback.__name__: info.callback
    for info in [
        *cli.app.registered_commands,
        *results.registered_commands,
        *evaluation.registered_commands,
    ]
    if info.callback
}


def parameters(command: str) -> Iterator[tuple[str, str, bool, bool]]:
    """Yield name, option or "", whether it is needed, and whether it is a path."""
    function = COMMANDS[command]
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name])
        named = (info.default, *(info.param_decls or ()))  # typer puts the first into `default`
        declared = [each for each in named if str(each).startswith("--")]
        option = (declared or [f"--{name}"])[0] if isinstance(info, OptionInfo) else ""
        is_path = "Path" in str(kind) or (command == "diff" and name in ("first", "second"))
        yield name, option, parameter.default is inspect.Parameter.empty, is_path


def places() -> Iterator[tuple[str, str]]:
    """Yield every argument and option of a command that is a path."""
    for command in COMMANDS:
        for name, _, _, is_path in parameters(command):
            if is_path:
                yield command, name


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == [], "nothing is made"


def arguments(command: str, place: str) -> list[str]:
    """Return a command line with the URL in one place, and something in all that are needed."""
    words: list[str] = []
    for name, option, is_needed, _ in parameters(command):
        if name == place or is_needed:
            words += [option] if option else []
            words.append(url_for(place) if name == place else GIVEN.get(name, "x.parquet"))
    return words


def url_for(place: str) -> str:
    """Return a URL that this parameter does not take."""
    return OTHER_URL if place in ON_A_STORE else URL


def refusal_of(url: str) -> str:
    return f"{url}: is the address of a remote place, which is not supported"


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(("command", "place"), list(places()))
def test_command__refuses_a_url(command: str, place: str, refused: Refused) -> None:
    message = refused(lambda: typed(command, *arguments(command, place)))

    assert refusal_of(url_for(place)) in message


def test_places__are_found() -> None:
    assert {("run", "recipe"), ("run", "run"), ("assign", "source"), ("diff", "first")} < set(
        places()
    )


@pytest.mark.parametrize(
    ("key", "url"), [("dataset.source", "https://host/images"), ("images", URL)]
)
def test_run__refuses_a_url_by_its_key(
    key: str, url: str, refused: Refused, small_source: Path, tmp_path: Path
) -> None:
    recipe = write_small_recipe(tmp_path / "right.yaml", small_source)

    message = refused(lambda: typed("run", recipe, "--set", f"{key}={url}", "--set", "seed=x"))

    assert "2 problems" in message
    assert f"{key}: is the address of a remote place" in message


def test_run__names_the_path_of_a_file_url(
    refused: Refused, small_source: Path, tmp_path: Path
) -> None:
    recipe = write_small_recipe(tmp_path / "right.yaml", small_source)

    message = refused(lambda: typed("run", recipe, "--set", "dataset.source=file:///x/a%20b"))

    assert "dataset.source: is a URL; give the path alone: /x/a b" in message


@pytest.mark.usefixtures("_elsewhere")
def test_flows__refuse_urls_of_their_parameters(refused: Refused) -> None:
    recipe = str(Path(__file__).parents[2] / "configs/demo.yaml")

    assert refusal_of(OTHER_URL) in refused(lambda: resolve(recipe, OTHER_URL, None, {}))
    assert refusal_of(URL) in refused(lambda: resolve(URL, None, None, {}))
    assert refusal_of(OTHER_URL) in refused(lambda: rerun.fn("index", run=OTHER_URL))
    assert refusal_of(URL) in refused(lambda: rerun.fn("index", run="run", out=URL))
    for option in ("data", "validation", "supervised", "protocol"):
        url = url_for(option)
        given: dict[str, Any] = {"name": "knn", option: url}
        assert refusal_of(url) in refused(lambda given=given: EvaluationRequest(**given))
    # A data set is read where it is, file by file.
    assert refusal_of(URL) in refused(lambda: EvaluationRequest(name="retrieval", data=URL))
