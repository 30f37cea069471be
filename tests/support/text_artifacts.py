"""Artifacts of small text files."""

from pathlib import Path

from deepcluster_core.artifacts.commit import (
    new_artifact,
)
from deepcluster_core.artifacts.manifest import (
    Manifest,
    Stage,
    read_manifest,
)
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context

STAGE = Stage(name="group", version=1, kind="groups", files=("table",))


class GroupConfig(StrictConfig):
    k: int = 5


def commit(
    folder: Path,
    files: dict[str, str],
    *,
    inputs: dict[str, str] | None = None,
    context: Context | None = None,
) -> Manifest:
    """Write an artifact of text files."""
    with new_artifact(
        STAGE,
        folder,
        config={"group": GroupConfig()},
        inputs=inputs or {},
        context=context or Context(seed=1),
    ) as draft:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        draft.rows = len(files)
        draft.facts["names"] = sorted(files)
    return read_manifest(folder)
