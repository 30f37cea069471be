"""Create artifacts: mark the folder as a draft, write the files, write the manifest last.

No directory is renamed, so this order of writes also works on an object store.

Several ranks can make an artifact together. The first one clears the folder and writes the
manifest, and each makes durable what it has written. A single process is the first rank of one.
"""

import errno
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.files import FileRecord, delete, record_files, write_atomically
from deepcluster_core.artifacts.locks import lock
from deepcluster_core.artifacts.manifest import (
    FORMAT,
    MANIFEST,
    Condition,
    Manifest,
    Stage,
    artifact_key,
    digest_of,
    dump_sections,
    inspect,
    read_manifest,
)
from deepcluster_core.artifacts.mirrored import is_held, mirror_of
from deepcluster_core.artifacts.peak_memory import (
    peak_device_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)
from deepcluster_core.artifacts.permissions import SHARING, first_unwritable, may_write
from deepcluster_core.artifacts.provenance import provenance_of
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


@dataclass
class Draft:
    """An artifact that a stage is writing."""

    folder: Path
    key: str
    context: Context
    saved: Saved | None
    """The save of an interrupted attempt, to continue from; its files are in `folder`."""
    rows: int = 0
    """What the manifest records as `rows`. Only the first rank's value counts."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON values that the stage records in the manifest. Only the first rank's count."""
    own_files: list[Path] = field(default_factory=list)
    """The files that this rank has named, see `wrote`."""
    _start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """The time spent so far, including the saved part of earlier attempts."""
        earlier_attempts_s = self.saved.seconds if self.saved else 0.0
        return earlier_attempts_s + time.perf_counter() - self._start

    def wrote(self, path: Path) -> None:
        """Name a file in the folder that this rank has written or found complete.

        The rank hashes and flushes it at the end. A file that no rank names is the first rank's, so
        a stage calls this only if several ranks write files.
        """
        self.own_files.append(path)

    def publish(self, path: Path) -> None:
        """Begin to upload a finished file of a run on an object store, while others are computed.

        Ranks in processes of their own have no lease; their files are uploaded at the end.
        """
        mirror = mirror_of(self.folder)
        if mirror is not None and is_held(self.folder):
            mirror.publish(self.folder, [path.relative_to(self.folder).as_posix()])

    def save(self, facts: Mapping[str, Any], files: Mapping[str, Writer] | None = None) -> None:
        """Save the progress durably, so that the next attempt can continue from here.

        Only the first rank saves; on the other ranks this does nothing.

        Args:
            facts: JSON values that describe the progress.
            files: writers by file name; no earlier save may have used these names.
        """
        if self.context.ranks.rank != 0:
            return
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
        context: seed, epoch and where to run. If it has several ranks, all of them call this; an
            error on any of them leaves no manifest.

    Raises:
        ArtifactError: `out` holds files that no stage made, or a resource is missing or exhausted
            (see `explain_resource_errors`).
    """
    key = artifact_key(stage, config=config, inputs=inputs, seed=context.seed, epoch=context.epoch)
    # Before the stage runs, in which a file that the configuration names may change or vanish.
    sections = dump_sections(config)
    ranks = context.ranks
    with explain_resource_errors(out):
        saved = ranks.on_first(lambda: _take_over(out, stage, key), "begin artifact")
        reset_peak_memory(context.device)
        draft = Draft(out, key, context, saved)
        yield draft
        # From here on, the block has succeeded, on all ranks. A barrier would have a time limit,
        # but the first rank may work alone for hours at the end of a stage.
        ranks.on_first(lambda: None, "end of stage")
        seconds = draft.seconds  # without the time to hash and flush the files
        shares = ranks.gather(_share_of(draft), "shares of artifact")

        def commit() -> None:
            manifest = _describe(draft, stage, sections, inputs, shares or [], seconds)
            # The manifest makes the folder an artifact.
            write_manifest(out, manifest)
            _end(out)

        ranks.on_first(commit, "commit artifact")


def _take_over(out: Path, stage: Stage, key: str) -> Saved | None:
    """Begin an attempt in `out`; return the save of an interrupted one to continue from, if any."""
    _begin(out, stage)
    # Keep what an interrupted attempt saved; without a save, start from an empty folder.
    saved = read_saved(out, key)
    if saved is None:
        _clear(out)
    else:
        _clear_half_written(out, stage)
    return saved


@dataclass(frozen=True)
class _Share:
    """What one rank has contributed to an artifact."""

    files: dict[str, FileRecord]
    """The files that the rank has named as its own; they are durable."""
    peak_memory_bytes: int
    peak_device_bytes: int | None
    moved_bytes: dict[str, int]
    """Bytes that the rank has sent, by the name of the call."""


def _share_of(draft: Draft) -> _Share:
    """Make the files of this rank durable and return its share."""
    context = draft.context
    # The folders are left to the first rank, which flushes them when all files are there.
    files = record_files(draft.folder, draft.own_files)
    assert len(files) == len(draft.own_files), "a rank has named a file that does not exist"
    return _Share(
        files=files,
        peak_memory_bytes=peak_memory_bytes(),
        peak_device_bytes=peak_device_bytes(context.device),
        moved_bytes=dict(context.ranks.moved_bytes),
    )


def _describe(
    draft: Draft,
    stage: Stage,
    sections: dict[str, Any],
    inputs: Mapping[str, str],
    shares: Sequence[_Share],
    seconds: float,
) -> Manifest:
    """Make the remaining files durable and return the manifest that describes all files."""
    context = draft.context
    files = _all_files(draft.folder, shares)
    hashes = {name: record.sha256 for name, record in files.items()}
    on_device = [share.peak_device_bytes or 0 for share in shares]
    return Manifest(
        stage=stage.name,
        version=stage.version,
        key=draft.key,
        digest=digest_of(hashes),
        inputs=dict(inputs),
        config=sections,
        seed=context.seed,
        epoch=context.epoch,
        rows=draft.rows,
        bytes=sum(record.bytes for record in files.values()),
        seconds=round(seconds, 4),
        peak_memory_bytes=max(share.peak_memory_bytes for share in shares),
        peak_device_bytes=None if shares[0].peak_device_bytes is None else max(on_device),
        facts=draft.facts,
        files=files,
        provenance=provenance_of(context.device),
        attempt=None if mirror_of(draft.folder) is None else secrets.token_hex(16),
        **_of_many_ranks(shares),
    )


def _all_files(folder: Path, shares: Sequence[_Share]) -> dict[str, FileRecord]:
    """Return the records of the ranks and of all files that no rank has named, sorted by name."""
    files: dict[str, FileRecord] = {}
    for share in shares:
        files |= share.files
    others: list[Path] = []
    for path in folder.rglob("*"):
        is_recorded = path.relative_to(folder).as_posix() in files
        if not is_recorded and not _is_temporary(path):
            others.append(path)
    files |= record_files(folder, others)
    return dict(sorted(files.items()))


def _of_many_ranks(shares: Sequence[_Share]) -> dict[str, Any]:
    """Return the fields of a manifest that only an artifact of several ranks has."""
    if len(shares) == 1:
        return {}
    most_moved: dict[str, int] = {}
    for share in shares:
        for name, num_bytes in share.moved_bytes.items():
            most_moved[name] = max(num_bytes, most_moved.get(name, 0))
    return {"format": FORMAT, "ranks": len(shares), "moved_bytes": most_moved}


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
    mirror = mirror_of(folder)
    if mirror is not None:
        mirror.prune(folder)
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
    mirror = mirror_of(out)
    if mirror is not None:
        mirror.withdraw(out)
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
        if path.name not in stage.possible_files and not _is_temporary(path):
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
    own_names = {*stage.possible_files, MANIFEST}
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
