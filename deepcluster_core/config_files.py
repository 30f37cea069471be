"""Find recipes, protocols and tables by name: in the working folder, or as shipped."""

import os
from pathlib import Path

CONFIGS = (Path(__file__).parent / "configs").resolve()
"""The shipped files. In a checkout this is a link to its `configs/`; a wheel holds a copy."""

DEPLOYMENTS = Path(__file__).parent / "prefect.yaml"
"""The shipped deployments, for `prefect deploy`."""


def config_file(name: str) -> Path:
    """Return the path of a file below `configs/`.

    A file in the working folder takes precedence over the shipped one.
    """
    local_file = Path("configs") / name
    if is_file(local_file):
        return local_file
    return CONFIGS / name


def recipe_names() -> list[str]:
    """Return the sorted names of all recipes, both local and shipped."""
    found = [*Path("configs").glob("*.yaml"), *CONFIGS.glob("*.yaml")]
    return sorted({path.stem for path in found})


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False if the path cannot be looked up."""
    return os.path.isfile(path)  # noqa: PTH113  pathlib raises if it may not look
