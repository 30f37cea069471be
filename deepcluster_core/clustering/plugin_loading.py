"""Load the callable that `cluster.algorithm: python:MODULE:NAME` names."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from deepcluster_core.errors import ConfigError

PYTHON = "python:"
PATTERN = re.compile(rf"{PYTHON}[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""The form python:MODULE:NAME."""

Make = Callable[..., Any]
"""A callable that returns a clusterer."""


def load_callable(algorithm: str) -> Make:
    """Import the module of `python:MODULE:NAME` and return its attribute NAME.

    Modules are looked up among the installed ones, then in the working directory.

    Raises:
        ConfigError: the module or name does not exist, the module cannot be imported, or `Plugin`
            does not allow the callable.
    """
    module_name, _, name = algorithm.removeprefix(PYTHON).partition(":")
    module = _imported(module_name, key=f"cluster.algorithm {algorithm}")
    found = getattr(module, name, None)
    if found is None:
        public = sorted(name for name in vars(module) if not name.startswith("_"))
        raise ConfigError(
            f"cluster.algorithm {algorithm}: module {module_name} has no {name}.\n"
            f"  Fix: choose a name that it has: {', '.join(public[:20])}."
        )
    if _may_be_called(found, module):
        return found
    raise ConfigError(
        f"cluster.algorithm {algorithm}: {name} is not a class with fit or fit_predict.\n"
        "  Cause: a function is called only if its module is in the working directory, so that "
        "no recipe can call whatever is installed.\n"
        f"  Fix:   write a module into {Path.cwd()} whose function calls it."
    )


def _imported(name: str, *, key: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that a file here cannot replace an installed module
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The missing module is the one named, a package above it, or one that it imports.
        is_named = f"{name}.".startswith(f"{error.name}.")
        if error.name is None or not is_named:
            raise ConfigError(
                f"{key}: {name} imports {error.name}, which is not installed.\n"
                f"  Fix: pip install it."
            ) from error
        raise ConfigError(
            f"{key}: the module {error.name} does not exist, neither installed nor in {here}.\n"
            "  Fix: start in the folder that contains the module, or install it."
        ) from error
    except Exception as error:  # the module's code may raise anything
        raise ConfigError(f"{key}: {name} cannot be imported.\n{cause_of(error)}") from error


def _may_be_called(found: object, module: ModuleType) -> bool:
    """Return whether a recipe may call this object: a clusterer class or the user's function."""
    if inspect.isclass(found):
        return is_clusterer(found)
    if not inspect.isfunction(found):
        return False
    # An imported function is not the user's own, even in a module that is.
    return found.__module__ == module.__name__ and _is_in_working_directory(module)


def _is_in_working_directory(module: ModuleType) -> bool:
    """Return whether a module is in the working directory itself, not in a .venv within it."""
    path = Path.cwd().joinpath(*module.__name__.split("."))
    return module.__file__ in (f"{path}.py", str(path / "__init__.py"))


def is_clusterer(found: object) -> bool:
    """Return whether an object has one of the methods that `Plugin` calls."""
    return hasattr(found, "fit_predict") or hasattr(found, "fit")


def cause_of(error: Exception) -> str:
    """Return an error's class and message as a `Cause` line."""
    message = " ".join(str(error).split())  # on one line
    return f"  Cause: {type(error).__name__}: {message[:300]}"
