"""The one way an artifact comes into being: a draft folder, files, and the manifest last.

No directory is renamed, so the same order of writes works on an object store.
"""

import errno
import importlib.metadata
import os
import platform
import resource
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
    """An artifact in the making."""

    folder: Path
    key: str
    context: Context
    saved: Saved | None
    """What an attempt that was cut short has left to go on from; its files lie in `folder`."""
    rows: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    """What the stage counts, for the manifest. JSON values only."""
    _start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Spent so far, by all attempts as far as they were of use."""
        before_s = self.saved.seconds if self.saved else 0.0
        return before_s + time.perf_counter() - self._start

    def save(self, facts: Mapping[str, Any], files: Mapping[str, Writer] | None = None) -> None:
        """Save what was done, durably: an attempt after this one goes on from here.

        Args:
            facts: JSON values that say how far it is.
            files: writers, by a name that was not used before.
        """
        write_saved(self.folder, self.key, seconds=self.seconds, facts=facts, files=files or {})


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

    When the block raises, or the process dies, `out` keeps what was written but has no manifest: it
    is no artifact. The next attempt goes on from the draft's last save if that has the same key,
    else it clears the folder.

    Args:
        stage: whose artifact it is.
        out: its folder; created. Other people's files in it are never deleted.
        config: the sections of the recipe that the stage reads, by name.
        inputs: digests of what it reads, by the names of its parameters.
        context: seed, epoch and place.

    Raises:
        ArtifactError: `out` holds files that are no artifact, or the machine lacks something, see
            `explain_resource_errors`.
    """
    key = artifact_key(stage, config=config, inputs=inputs, seed=context.seed, epoch=context.epoch)
    with explain_resource_errors(out):
        _begin(out, stage)
        saved = read_saved(out, key)
        if saved is None:
            _clear(out)
        else:
            _clear_half_written(out, stage)
        _reset_peak_memory(context.device)
        draft = Draft(out, key, context, saved)
        yield draft
        write_manifest(out, _describe(draft, stage, config, inputs, context))
        _end(out)


def _describe(
    draft: Draft,
    stage: Stage,
    config: Mapping[str, StrictConfig],
    inputs: Mapping[str, str],
    context: Context,
) -> Manifest:
    """Return the manifest of what was written, once all of it is durable."""
    seconds = draft.seconds
    parts = (path for path in draft.folder.rglob("*") if not _is_temporary(path))
    files = record_files(draft.folder, sorted(parts))
    return Manifest(
        stage=stage.name,
        version=stage.version,
        key=draft.key,
        digest=digest_of({name: record.sha256 for name, record in files.items()}),
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
    """Delete what an attempt left that died right after its commit.

    The artifact is whole without it, so what may not be deleted stays: its owner's next attempt
    tidies.
    """
    if not (folder / UNFINISHED).exists() or not may_write(folder):
        return
    with suppress(OSError, ArtifactError), lock(folder):  # another process may have begun anew
        if (folder / MANIFEST).exists():
            _end(folder)


def _end(folder: Path) -> None:
    """Delete what an attempt needed on its way, once the artifact is committed."""
    delete_saved(folder)
    for part in folder.glob("*.part"):
        part.unlink()
    (folder / UNFINISHED).unlink(missing_ok=True)  # last: it says that there is something to tidy


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put the manifest in its place, whole or not at all, and durable before it returns."""
    write_atomically(folder / MANIFEST, manifest.sealed().model_dump_json(indent=2).encode())


def prune(folder: Path) -> None:
    """Delete an artifact's files but keep its manifest, which still stands for its contents.

    Raises:
        PermissionError: some of them may not be deleted; then all of them stay.
    """
    inside = (path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())
    if (denied := first_unwritable([folder, *inside])) is not None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(denied))
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"pruned": True}))
    for path in folder.iterdir():
        if path.name != MANIFEST:
            delete(path)


def _begin(out: Path, stage: Stage) -> None:
    """Mark `out` as ours and unfinished; its old manifest goes first: half an artifact is none."""
    out.mkdir(parents=True, exist_ok=True)
    _refuse_unreadable(out)
    if not (out / UNFINISHED).exists() and _foreign(out, stage):
        raise ArtifactError(
            f"{out}: the folder holds files that no stage made, and they would be deleted.\n"
            f"  Fix: choose an empty or new folder."
        )
    (out / UNFINISHED).touch()
    (out / MANIFEST).unlink(missing_ok=True)


def _refuse_unreadable(out: Path) -> None:
    """Refuse to delete what may not even be read: it may be a whole artifact of somebody else.

    Raises:
        ArtifactError: there is such a file.
    """
    condition, reason = inspect(out)
    if condition is Condition.UNREADABLE:
        raise ArtifactError(
            f"{out}: holds what you may not read, and it is left as it is.\n"
            f"  Cause: {reason}\n"
            f"  Fix:   have the permissions changed, or choose another folder. {SHARING}"
        )


def _clear(out: Path) -> None:
    """Delete what earlier attempts left; saves first, which are worth nothing without the rest."""
    delete_saved(out)
    for path in out.iterdir():
        if path.name != UNFINISHED:
            delete(path)


def _clear_half_written(out: Path, stage: Stage) -> None:
    """Delete what a kill left under names that libraries give files until they are whole.

    safetensors writes `.tmp…` beside its file, zarr `….partial` in the folder of the array.
    """
    for path in out.iterdir():
        if path.name not in stage.files and not _is_temporary(path):
            delete(path)
    for path in out.rglob("*.partial"):
        path.unlink()


def _is_temporary(path: Path) -> bool:
    """Tell whether a file is for an attempt only: its mark, its save, what a crash left half."""
    return path.name == UNFINISHED or path.name.startswith(PREFIX) or path.suffix == ".part"


def _foreign(out: Path, stage: Stage) -> bool:
    """Tell whether a folder holds what this stage cannot have made."""
    made = {*stage.files, MANIFEST}
    if (out / MANIFEST).exists():
        try:
            manifest = read_manifest(out)
        except NewerArtifactError:
            raise
        except ArtifactError:
            pass  # damaged: its stage may try again
        else:
            if manifest.stage != stage.name:
                return True
            made |= {name.partition("/")[0] for name in manifest.files}
    return any(path.name not in made and ".part" not in path.suffixes for path in out.iterdir())


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
    """Return the commit of the checkout this file lies in, with `+changes` if it was edited."""
    here = Path(__file__)
    try:
        _git("ls-files", "--error-unmatch", here.name, at=here.parent)  # else another checkout's
        return _git(
            "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*", at=here.parent
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str, at: Path) -> str:
    found = subprocess.run(  # noqa: S603  our own words
        ["git", *arguments],  # noqa: S607  whichever git the person uses
        cwd=at,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return found.stdout.strip()


def _reset_peak_memory(device: str) -> None:
    if (cuda := _cuda_in_use(device)) is not None:
        cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux: the peak is then that of the process so far


def _peak_memory_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_device_bytes(device: str) -> int | None:
    cuda = _cuda_in_use(device)
    return None if cuda is None else cuda.max_memory_allocated(device)


def _cuda_in_use(device: str) -> ModuleType | None:
    """Return torch.cuda if it has counted the memory of this device so far."""
    kind, _, number = device.partition(":")
    # Code that only reads artifacts imports this module, and must not pay for importing torch.
    torch = sys.modules.get("torch")
    if kind != "cuda" or torch is None or not torch.cuda.is_initialized():
        return None
    return torch.cuda if int(number or 0) < torch.cuda.device_count() else None
