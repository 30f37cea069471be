"""Check a file of an artifact against its manifest before it is read as a whole."""

from pathlib import Path

from deepcluster_core.artifacts.manifest import has_manifest, read_manifest
from deepcluster_core.artifacts.mirrored import fetched
from deepcluster_core.artifacts.permissions import why_not_readable
from deepcluster_core.errors import ArtifactError


def verify(path: Path) -> None:
    """Check a file of an artifact against the digest in the manifest beside it.

    Call it before reading a file as a whole. A file that is on an object store is fetched. A file
    without a manifest beside it is not checked: callers that require an artifact have read its
    manifest before.

    Raises:
        ArtifactError: the file is not as it was committed.
    """
    if not has_manifest(path.parent):
        return
    manifest = read_manifest(path.parent)
    fetched(path)
    record = manifest.files.get(path.name)
    problem = "not in the manifest"
    try:
        if record is not None:
            problem = record.problem_of(path, hash_always=True)
    except PermissionError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}).\n"
            f"  Cause: {why_not_readable(path)}\n"
            f"  Fix:   have its permissions changed."
        ) from error
    if problem:
        # The command needs the epoch, except for a stage that runs once per run.
        epoch = "" if manifest.epoch is None else f" --epoch {manifest.epoch}"
        raise ArtifactError(
            f"{path}: {problem}.\n"
            f"  Fix: make it again: deepcluster stage {manifest.stage} --run …{epoch} --force"
        )
