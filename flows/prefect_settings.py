"""Prefect's settings: where one of them was read from, and what is invalid about them."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from deepcluster_core.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """A setting of Prefect."""

    names: tuple[str, ...]
    """As an environment variable."""
    keys: tuple[str, ...]
    """In prefect.toml, and below [tool.prefect] in pyproject.toml."""


API_URL = Setting(("PREFECT_API_URL",), ("api", "url"))
DATABASE_URL = Setting(
    ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"),
    ("server", "database", "connection_url"),
)
DATABASE_HOST = Setting(
    ("PREFECT_SERVER_DATABASE_HOST", "PREFECT_API_DATABASE_HOST"), ("server", "database", "host")
)
EPHEMERAL = Setting(
    ("PREFECT_SERVER_EPHEMERAL_ENABLED", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"),
    ("server", "ephemeral", "enabled"),
)
HOME = Setting(("PREFECT_HOME",), ("home",))


@dataclass(frozen=True)
class Origin:
    """Where a setting was read from."""

    name: str
    """As it is spelled there."""
    place: str
    undo: str
    """How to remove it, in the infinitive."""

    def __str__(self) -> str:
        """Return both for a message."""
        return f"{self.name}, {self.place}"


def origin_of(setting: Setting) -> Origin | None:
    """Return where Prefect has read a setting from, or None if it is not set anywhere.

    The order of the places is Prefect's own.
    """
    if name := _spelled(setting, os.environ):
        return Origin(name, "an environment variable", f"unset {name}")
    if name := _spelled(setting, _dotenv()):
        path = Path(".env").absolute()
        return Origin(name, str(path), f"remove {name} from {path}")
    for file, prefix in (("prefect.toml", ()), ("pyproject.toml", ("tool", "prefect"))):
        *tables, key = (*prefix, *setting.keys)
        if _in_toml(Path(file), [*tables, key]):
            path = Path(file).absolute()
            table = f" under [{'.'.join(tables)}]" if tables else ""
            return Origin(f"{key}{table}", str(path), f"remove it from {path}")
    return _in_profile(setting)


def without_password(url: str) -> str:
    """Return a URL without user and password, for messages."""
    return re.sub(r"//[^/]*@", "//", url)


@contextmanager
def settings_errors_explained() -> Iterator[None]:
    """Raise what Prefect finds invalid in its settings as an error that a person can read.

    Prefect reads its settings when it is first imported, wherever that is.

    Raises:
        ConfigError: a setting is invalid.
    """
    try:
        yield
    except Exception as error:
        if not _is_from_settings(error.__traceback__):
            raise
        places = "the environment, .env, prefect.toml and pyproject.toml here, the profile"
        raise ConfigError(
            f"Prefect's settings are invalid: {_problems(error)}.\n"
            f"  Read from: {places}.\n"
            f"  Fix: correct or remove that setting."
        ) from error


def _spelled(setting: Setting, values: Mapping[str, str | None]) -> str | None:
    """Return the name under which a setting has a value; Prefect ignores the case of names."""
    for wanted in setting.names:
        for name, value in values.items():
            if name.upper() == wanted and value:
                return name
    return None


def _dotenv() -> Mapping[str, str | None]:
    from dotenv import dotenv_values  # noqa: PLC0415

    return dotenv_values(".env") if Path(".env").is_file() else {}


def _in_toml(path: Path, keys: list[str]) -> bool:
    try:
        value: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _in_profile(setting: Setting) -> Origin | None:
    from prefect.context import get_settings_context  # noqa: PLC0415

    profile = get_settings_context().profile
    name = _spelled(setting, profile.to_environment_variables())
    # Without a file of the person's own, the profile is Prefect's default.
    if name is None or profile.source is None:
        return None
    return Origin(
        name, f"the profile {profile.name} in {profile.source}", f"prefect config unset {name}"
    )


def _is_from_settings(traceback: TracebackType | None) -> bool:
    """Return whether an error was raised while Prefect read its settings."""
    while traceback is not None:
        frame = traceback.tb_frame
        made = type(frame.f_locals.get("__pydantic_self__"))  # what pydantic is about to create
        modules = (frame.f_globals.get("__name__", ""), made.__module__)
        if any(module.startswith("prefect.settings.") for module in modules):
            return True
        traceback = traceback.tb_next
    return False


def _problems(error: Exception) -> str:
    """Return one line that says which settings are invalid, and why."""
    from pydantic import ValidationError  # noqa: PLC0415

    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    problems: list[str] = []
    for problem in error.errors(include_url=False):
        if problem["type"] == "default_factory_not_called":  # follows from another problem
            continue
        name = ".".join(map(str, problem["loc"]))
        problems.append(f"{_owner(error.title)}{name} = {problem['input']!r}: {problem['msg']}")
    return "; ".join(problems)


def _owner(model: str) -> str:
    """Return the part of a setting's name that its model stands for: `APISettings` is `api.`."""
    with suppress(ValueError):
        name = model[: model.index("Settings")].lower()
        return f"{name}." if name else ""
    return ""
