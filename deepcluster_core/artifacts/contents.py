"""Digests of files that a recipe names and that may be anywhere, such as weights to begin with."""

import hashlib
from pathlib import Path

from deepcluster_core.artifacts.files import Signature, signature_of
from deepcluster_core.errors import ArtifactError

_DIGESTS: dict[Path, tuple[Signature | None, str]] = {}
"""Digests by path, each with the signature of the file, so that a large file is read only once."""


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    The file is read again only if its signature has changed.

    Raises:
        ArtifactError: the file is missing, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            # By the open file, because the path may be replaced before it is read.
            signature = signature_of(file.fileno())
            known = _DIGESTS.get(path)
            if known is None or known[0] != signature:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                _DIGESTS[path] = signature, digest
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}), but the recipe names it.\n"
            f"  Fix: put the file back, or name its new place in the recipe."
        ) from error
    return _DIGESTS[path][1]
