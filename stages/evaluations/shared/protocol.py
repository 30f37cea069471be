"""The protocol of an evaluation: every number that its result depends on, from one YAML file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from deepcluster_core.config import StrictConfig
from deepcluster_core.config_files import CONFIGS
from deepcluster_core.config_problems import described, invalid
from deepcluster_core.config_yaml import merged, plain, read_yaml
from deepcluster_core.local_paths import expanded

PROTOCOLS = CONFIGS / "evaluations"
"""As shipped: what a result is compared with, to name its deviations from the paper."""

Protocol = TypeVar("Protocol", bound=StrictConfig)


def protocol_names() -> tuple[str, ...]:
    """Return the names of the evaluations: each has a protocol of its name, which is shipped."""
    return tuple(sorted(path.stem for path in PROTOCOLS.glob("*.yaml")))


def load_protocol(path: Path, kind: type[Protocol], overrides: Mapping[str, Any]) -> Protocol:
    """Read a protocol, put `overrides` over it, and check all of it: no key has a default.

    Args:
        path: of the YAML file.
        kind: the class of the protocol.
        overrides: keys of it.

    Raises:
        ConfigError: the file cannot be read, or keys or values are wrong: all are named at once.
    """
    path = expanded(path, Path())
    values = merged(read_yaml(path), plain(overrides, name="overrides"))
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise invalid(str(path), described(error, kind)) from error
