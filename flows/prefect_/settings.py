"""Find out where a setting of Prefect was read from."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.prefect_.internals import active_profile


@dataclass(frozen=True)
class Setting:
    """A setting of Prefect."""

    names: tuple[str, ...]
    """Its names as an environment variable."""
    keys: tuple[str, ...]
    """Its keys in prefect.toml, and below [tool.prefect] in pyproject.toml."""


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


TOML_FILES = {"prefect.toml": (), "pyproject.toml": ("tool", "prefect")}
"""Files that Prefect reads settings from, and the tables in them that hold the settings."""


@dataclass(frozen=True)
class Origin:
    """The place that a setting was read from."""

    name: str
    """The name of the setting, as it is spelled there."""
    place: str
    undo: str
    """How to remove the setting, in the infinitive."""

    def __str__(self) -> str:
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
    for file, tables in TOML_FILES.items():
        keys = [*tables, *setting.keys]
        if _in_toml(Path(file), keys):
            path = Path(file).absolute()
            return Origin(_described(keys), str(path), f"remove it from {path}")
    return _in_profile(setting)


def _described(keys: list[str]) -> str:
    """Return a key of a TOML file with the table that it is in."""
    *tables, key = keys
    if not tables:
        return key
    return f"{key} under [{'.'.join(tables)}]"


def without_password(url: str) -> str:
    """Return a URL without user and password, for messages."""
    return re.sub(r"//[^/]*@", "//", url)


def _spelled(setting: Setting, values: Mapping[str, str | None]) -> str | None:
    """Return the name under which a setting has a value; Prefect ignores the case of names."""
    for wanted in setting.names:
        for name, value in values.items():
            if name.upper() == wanted and value:
                return name
    return None


def _dotenv() -> Mapping[str, str | None]:
    """Return the variables in the file .env of the working folder."""
    from dotenv import dotenv_values  # noqa: PLC0415

    if not Path(".env").is_file():
        return {}
    return dotenv_values(".env")


def _in_toml(path: Path, keys: list[str]) -> bool:
    try:
        value: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
    except (OSError, ValueError):  # usually the file does not exist
        return False
    except (KeyError, TypeError):  # TypeError: a value where a table was expected
        return False
    return True


def _in_profile(setting: Setting) -> Origin | None:
    profile = active_profile()
    name = _spelled(setting, profile.to_environment_variables())
    # Without a file of the person's own, the profile is Prefect's default.
    if name is None or profile.source is None:
        return None
    place = f"the profile {profile.name} in {profile.source}"
    return Origin(name, place, f"prefect config unset {name}")
