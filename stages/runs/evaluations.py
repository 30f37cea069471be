"""Find evaluations by name, and check whether one supports a request."""

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError

from deepcluster_core.config import StrictConfig
from deepcluster_core.config_files import config_file
from deepcluster_core.config_overrides import parse_assignments
from deepcluster_core.config_problems import described, invalid
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local
from stages import evaluations
from stages.evaluations.declaration import Evaluation
from stages.evaluations.shared.protocol import load_protocol
from stages.runs.compute import ComputeConfig
from stages.runs.evaluation_request import EvaluationRequest, known_name


def _declared() -> Iterator[tuple[str, Evaluation]]:
    """Yield the evaluations that the modules of `stages.evaluations` declare, under each name."""
    for module in iter_modules(evaluations.__path__, f"{evaluations.__name__}."):
        # Modules that evaluations share declare nothing.
        declared = getattr(import_module(module.name), "EVALUATION", None)
        if isinstance(declared, Evaluation):
            for name in declared.names:
                yield name, declared


EVALUATIONS: dict[str, Evaluation] = dict(_declared())
"""The evaluations by the names that people type. For each name there is a protocol file."""


def find_evaluation(name: str) -> Evaluation:
    """Return the evaluation of a name.

    Raises:
        ConfigError: the evaluation is unknown.
    """
    return EVALUATIONS[known_name(name)]


def parse_protocol_keys(name: str, assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `["ks=[1, 5]", …]` into values, each by the type of the protocol's key.

    Raises:
        ConfigError: the evaluation is unknown, or an assignment is invalid; see
            `parse_assignments`.
    """
    return parse_assignments(assignments, find_evaluation(name).protocol)


def protocol_of(request: EvaluationRequest) -> StrictConfig:
    """Return the protocol of a request, with the overrides applied.

    Raises:
        ConfigError: the file of the protocol cannot be read, or keys or values are invalid.
    """
    path = Path(request.protocol or config_file(f"evaluations/{request.name}.yaml"))
    return load_protocol(path, find_evaluation(request.name).protocol, request.overrides or {})


def check_request(request: EvaluationRequest) -> None:
    """Check a request against the declaration of the evaluation.

    Raises:
        ConfigError: the protocol or `compute` is invalid, a required option is missing, or the
            evaluation does not read an option that is given.
    """
    evaluation = find_evaluation(request.name)
    protocol_of(request)
    _check_compute(request.compute or {})
    for option in ("data", "validation", "supervised"):
        is_given = getattr(request, option) is not None
        if is_given and option not in evaluation.options:
            readers = [name for name, other in EVALUATIONS.items() if option in other.options]
            raise ConfigError(
                f"--{option}: {request.name} does not read it.\n"
                f"  Fix: leave it out; {', '.join(readers)} read it."
            )
    # The own images of a run are no substitute for a data set.
    if evaluation.data == "dataset":
        if request.data is None:
            raise ConfigError(
                f"evaluate {request.name} needs --data DIR.\n"
                f"  Fix: give the folder of the data set, as it is distributed."
            )
        check_is_local(request.data, "--data")


def _check_compute(values: Mapping[str, Any]) -> None:
    """Raise ConfigError if the recipe's section `compute` does not have these keys or values."""
    try:
        ComputeConfig.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise invalid("compute", described(error, ComputeConfig)) from error
