"""Artifacts whose files a test has changed on purpose, and committed again."""

from pathlib import Path

from deepcluster_core.artifacts.commit import write_manifest
from deepcluster_core.artifacts.files import record_files
from deepcluster_core.artifacts.manifest import read_manifest


def reseal(folder: Path) -> None:
    """Have the manifest stand for the files as they are now."""
    manifest = read_manifest(folder)
    files = record_files(folder, [folder / name for name in manifest.files])
    write_manifest(folder, manifest.model_copy(update={"files": files}))
