"""Create artifacts: mark the folder as a draft, write the files, write the manifest last.

No directory is renamed, so this order of writes also works on an object store.
"""

import errno
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from deepcluster_core.artifacts.files import delete, record_files, write_atomically
from deepcluster_core.artifacts.locks import lock
from deepcluster_core.artifacts.manifest import (
    MANIFEST,
    Condition,
    Manifest,
    Provenance,
    Stage,
    artifact_key,
    digest_of,
    dump_sections,
    inspect,
    read_manifest,
)
from deepcluster_core.artifacts.permissions import SHARING, first_unwritable, may_write
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.artifacts.saved import (
    PREFIX,
    Saved,
    Writer,
    delete_saved,
    read_saved,
    write_saved,
)
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError, NewerArtifactError

UNFINISHED = "_unfinished"
LIBRARIES = (
    "torch",
    "torchvision",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
    "zarr",
    "pyarrow",
    "prefect",
)


@dataclass
class Draft:
    """An artifact that a stage is writing."""

    folder: Path
    key: str
    context: Context
    saved: Saved | None
    """The save of an interrupted attempt, to continue from; its files are in `folder`."""
    rows: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON values that the stage records in the manifest."""
    _start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """The time spent so far, including the saved part of earlier attempts."""
        earlier_attempts_s = self.saved.seconds if self.saved else 0.0
        return earlier_attempts_s + time.perf_counter() - self._start

    def save(self, facts: Mapping[str, Any], files: Mapping[str, Writer] | None = None) -> None:
        """Save the progress durably, so that the next attempt can continue from here.

        Args:
            facts: JSON values that describe the progress.
            files: writers by file name; no earlier save may have used these names.
        """
        writers = files or {}
        write_saved(self.folder, self.key, seconds=self.seconds, facts=facts, files=writers)


@contextmanager
def new_artifact(
    stage: Stage,
    out: Path,
    *,
    config: Mapping[str, StrictConfig],
    inputs: Mapping[str, str],
    context: Context,
) -> Iterator[Draft]:
    """Clear `out`, let the block fill it, then commit it by writing its manifest.

    If the block raises or the process dies, `out` keeps what was written but has no manifest, so it
    does not count as an artifact. The next attempt continues from the draft's last save if the keys
    match, and clears the folder if they do not.

    Args:
        stage: the stage that makes the artifact.
        out: folder of the artifact; created if missing. Files that no stage made are never deleted.
        config: the sections of the recipe that the stage reads, by name.
        inputs: digests of its inputs, by parameter name.
        context: seed, epoch and where to run.

    Raises:
        ArtifactError: `out` holds files that no stage made, or a resource is missing or exhausted
            (see `explain_resource_errors`).
    """
    key = artifact_key(stage, config=config, inputs=inputs, seed=context.seed, epoch=context.epoch)
    with explain_resource_errors(out):
        _begin(out, stage)
        # Keep what an interrupted attempt saved; without a save, start from an empty folder.
        saved = read_saved(out, key)
        if saved is None:
            _clear(out)
        else:
            _clear_half_written(out, stage)
        _reset_peak_memory(context.device)
        draft = Draft(out, key, context, saved)
        yield draft
        # From here on, the block has succeeded: the manifest makes the folder an artifact.
        manifest = _describe(draft, stage, config, inputs, context)
        write_manifest(out, manifest)
        _end(out)


def _describe(
    draft: Draft,
    stage: Stage,
    config: Mapping[str, StrictConfig],
    inputs: Mapping[str, str],
    context: Context,
) -> Manifest:
    """Make all written files durable and return the manifest that describes them."""
    seconds = draft.seconds  # without the time to hash and flush the files
    parts = [path for path in draft.folder.rglob("*") if not _is_temporary(path)]
    files = record_files(draft.folder, sorted(parts))
    hashes = {name: record.sha256 for name, record in files.items()}
    return Manifest(
        stage=stage.name,
        version=stage.version,
        key=draft.key,
        digest=digest_of(hashes),
        inputs=dict(inputs),
        config=dump_sections(config),
        seed=context.seed,
        epoch=context.epoch,
        rows=draft.rows,
        bytes=sum(record.bytes for record in files.values()),
        seconds=round(seconds, 4),
        peak_memory_bytes=_peak_memory_bytes(),
        peak_device_bytes=_peak_device_bytes(context.device),
        facts=draft.facts,
        files=files,
        provenance=_provenance(context.device),
    )


def tidy(folder: Path) -> None:
    """Delete the temporary files of an attempt that died right after its commit.

    The artifact is complete without them. Files that this user may not delete stay until the
    owner's next attempt.
    """
    mark = folder / UNFINISHED
    if not mark.exists() or not may_write(folder):
        return
    with suppress(OSError, ArtifactError), lock(folder):
        # Check again under the lock: another process may have started to make the artifact anew.
        if (folder / MANIFEST).exists():
            _end(folder)


def _end(folder: Path) -> None:
    """Delete the temporary files of an attempt after the artifact is committed."""
    delete_saved(folder)
    for part in folder.glob("*.part"):
        part.unlink()
    # Last, because `tidy` looks for this mark to find out whether anything is left.
    (folder / UNFINISHED).unlink(missing_ok=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically; it is durable when the function returns."""
    text = manifest.sealed().model_dump_json(indent=2)
    write_atomically(folder / MANIFEST, text.encode())


def prune(folder: Path) -> None:
    """Delete an artifact's files but keep its manifest, whose digest still stands for the contents.

    Raises:
        PermissionError: some files may not be deleted; nothing is deleted then.
    """
    # Check every folder first, so that an artifact is never deleted in part.
    folders = [folder]
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
    denied = first_unwritable(folders)
    if denied is not None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(denied))
    # Mark first: a crash while deleting then leaves a pruned artifact, not a damaged one.
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"pruned": True}))
    for path in folder.iterdir():
        if path.name != MANIFEST:
            delete(path)


def _begin(out: Path, stage: Stage) -> None:
    """Mark `out` as an unfinished artifact and delete its old manifest.

    Without a manifest, a partly overwritten artifact cannot be mistaken for a finished one.
    """
    out.mkdir(parents=True, exist_ok=True)
    _check_readable(out)
    mark = out / UNFINISHED
    if not mark.exists() and _foreign(out, stage):
        raise ArtifactError(
            f"{out}: the folder holds files that no stage made, and they would be deleted.\n"
            f"  Fix: choose an empty or new folder."
        )
    # The mark comes first, so that the folder is recognised as a stage's at any moment.
    mark.touch()
    (out / MANIFEST).unlink(missing_ok=True)


def _check_readable(out: Path) -> None:
    """Check that this user may read the folder before anything in it is deleted.

    Unreadable files may be a finished artifact of another user.

    Raises:
        ArtifactError: the folder or a file of its artifact may not be read.
    """
    condition, reason = inspect(out)
    if condition is Condition.UNREADABLE:
        raise ArtifactError(
            f"{out}: contains files that you may not read; they are left unchanged.\n"
            f"  Cause: {reason}\n"
            f"  Fix:   have the permissions changed, or choose a different folder. {SHARING}"
        )


def _clear(out: Path) -> None:
    """Delete the files of earlier attempts; saves first, because they refer to the other files."""
    delete_saved(out)
    for path in out.iterdir():
        if path.name != UNFINISHED:
            delete(path)


def _clear_half_written(out: Path, stage: Stage) -> None:
    """Delete partly written files that libraries left when an attempt was killed.

    safetensors writes to `.tmp…` beside the file, zarr to `….partial` in the array's folder.
    """
    for path in out.iterdir():
        if path.name not in stage.files and not _is_temporary(path):
            delete(path)
    for path in out.rglob("*.partial"):
        path.unlink()


def _is_temporary(path: Path) -> bool:
    """Return whether a file is not part of the artifact: the mark, a save or a partial file."""
    if path.name == UNFINISHED:
        return True
    return path.name.startswith(PREFIX) or path.suffix == ".part"


def _foreign(out: Path, stage: Stage) -> bool:
    """Return whether a folder holds files that this stage cannot have made."""
    own_names = {*stage.files, MANIFEST}
    if (out / MANIFEST).exists():
        try:
            manifest = read_manifest(out)
        except NewerArtifactError:
            raise
        except ArtifactError:
            pass  # a damaged artifact, which the stage may replace
        else:
            if manifest.stage != stage.name:
                return True
            # An earlier version of the stage may have written files with different names.
            own_names |= {name.partition("/")[0] for name in manifest.files}
    for path in out.iterdir():
        is_partial = ".part" in path.suffixes
        if path.name not in own_names and not is_partial:
            return True
    return False


def _provenance(device: str) -> Provenance:
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        python=platform.python_version(),
        **_versions(),
    )


@cache
def _versions() -> dict[str, Any]:
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "code_version": importlib.metadata.version("deepcluster-pipeline"),
        "git_commit": _git_commit(),
        "libraries": installed,
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout that contains this file, with `+changes` if edited."""
    here = Path(__file__)
    try:
        # Fails if git does not track this file: an environment inside an unrelated checkout.
        _git("ls-files", "--error-unmatch", here.name, at=here.parent)
        return _git(
            "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*", at=here.parent
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str, at: Path) -> str:
    found = subprocess.run(  # noqa: S603  constant arguments
        ["git", *arguments],  # noqa: S607  the user's git
        cwd=at,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return found.stdout.strip()


def _reset_peak_memory(device: str) -> None:
    cuda = _cuda_in_use(device)
    if cuda is not None:
        cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux: the peak then covers the whole life of the process


def _peak_memory_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        after_name = status.split("VmHWM:")[1]
        return int(after_name.split()[0]) * 1024
    except (OSError, IndexError):
        import resource  # noqa: PLC0415  not on Windows, where artifacts can be read only

        # macOS reports bytes, other systems kilobytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_device_bytes(device: str) -> int | None:
    cuda = _cuda_in_use(device)
    return None if cuda is None else cuda.max_memory_allocated(device)


def _cuda_in_use(device: str) -> ModuleType | None:
    """Return torch.cuda if it is in use and tracks the memory of this device."""
    kind, _, number = device.partition(":")
    # Code that only reads artifacts imports this module and should not have to import torch.
    torch = sys.modules.get("torch")
    if kind != "cuda" or torch is None or not torch.cuda.is_initialized():
        return None
    index = int(number or 0)
    device_exists = index < torch.cuda.device_count()
    return torch.cuda if device_exists else None
