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
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local, expanded

PROTOCOLS = CONFIGS / "evaluations"
"""Folder of the shipped protocols. Deviations from the paper are found by comparing with them."""

Protocol = TypeVar("Protocol", bound=StrictConfig)


def protocol_names() -> tuple[str, ...]:
    """Return the names of all evaluations. Each has a shipped protocol of its name."""
    return tuple(sorted(path.stem for path in PROTOCOLS.glob("*.yaml")))


def load_protocol(path: Path, kind: type[Protocol], overrides: Mapping[str, Any]) -> Protocol:
    """Read a protocol, apply `overrides` and validate the result. No key has a default.

    Args:
        path: the YAML file.
        kind: the protocol's class.
        overrides: values that replace those of the file, by key.

    Raises:
        ConfigError: the file does not exist or cannot be read, or keys or values are invalid; all
            invalid ones are reported together.
    """
    path = expanded(path, Path())
    check_is_local(path)
    if not path.exists():
        raise ConfigError(
            f"{path}: this protocol does not exist.\n"
            f"  Fix: leave --protocol out for the one that is shipped, or give a changed copy of a "
            f"file in {PROTOCOLS}."
        )
    values = merged(read_yaml(path), plain(overrides, name="overrides"))
    # Strict types accept a list for a tuple, and text for a path, only when they parse JSON.
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise invalid(str(path), described(error, kind)) from error
