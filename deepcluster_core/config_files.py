"""Find recipes, protocols and tables by name: in the working folder, or as shipped."""

import os
from pathlib import Path

from deepcluster_core.local_paths import expanded

CONFIGS = (Path(__file__).parent / "configs").resolve()
"""The shipped files. In a checkout this is a link to its `configs/`; a wheel holds a copy."""

DEPLOYMENTS = Path(__file__).parent / "prefect.yaml"
"""The shipped deployments, for `prefect deploy`."""


def config_file(name: str) -> Path:
    """Return a file by its path below `configs/`: the working folder's, or else the shipped one."""
    own = Path("configs") / name
    return own if _is_file(own) else CONFIGS / name


def recipe_file(text: str | Path) -> Path:
    """Return the file that a person means by `demo`, `configs/demo.yaml` or another path.

    A file that exists is taken as it is. If none of the other readings exists either, the path is
    returned unchanged, so that the error for it names what was typed.
    """
    path = expanded(text, Path())
    if _is_file(path):
        return path
    folder, name = path.parent, path.name
    found = path
    if folder == Path() and not path.suffix:
        found = config_file(f"{name}.yaml")
    elif folder == Path("configs"):
        found = CONFIGS / name
    return found if _is_file(found) else path


def recipe_names() -> list[str]:
    """Return the names by which recipes can be found here."""
    found = [*Path("configs").glob("*.yaml"), *CONFIGS.glob("*.yaml")]
    return sorted({path.stem for path in found})


def _is_file(path: Path) -> bool:
    """Return whether a path is a file; False for one that no system call takes."""
    return os.path.isfile(path)  # noqa: PTH113  pathlib raises if it may not look
