"""What a file that people took away was made from, and whether the run still has it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcluster_core.artifacts.about_files import read_about
from deepcluster_core.artifacts.manifest import digest_of, inspect, read_manifest
from deepcluster_core.artifacts.mirrored import mirror_of
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.text import listed, shell_words
from stages.runs.cluster_names import ClusterName, names_at
from stages.runs.folder import RunFolder
from stages.runs.locate import existing_run
from stages.runs.remote_runs import url_of

if TYPE_CHECKING:  # it imports torch, which `check` does not need
    from stages.runs.past_run import PastRun

KINDS = {"labels": "labels", "checkpoint": "checkpoints"}
"""The kind of an artifact by the name under which a file mentions it."""
FOLDER, RELATIVE = "run_folder", "run_folder_relative"
NAMES = "cluster_names"


def origin(past: "PastRun", out: Path, **artifacts: Path | None) -> dict[str, Any]:
    """Return what `out` is made from: artifacts of a run, and where the run is.

    The place of the run is given twice: absolute, and relative to the folder of `out`, so that it
    is found when both are moved together, or when only `out` is.
    """
    if mirror_of(past.folder.root) is not None:
        return past.about(**artifacts) | {FOLDER: past.folder.address}
    root = past.folder.root.resolve()
    return past.about(**artifacts) | {
        FOLDER: str(root),
        RELATIVE: os.path.relpath(root, out.absolute().parent.resolve()),
    }


def digest_of_names(names: dict[int, ClusterName]) -> str:
    """Return a digest of the names of clusters at an epoch."""
    return digest_of({str(number): one.name for number, one in names.items()})


@dataclass(frozen=True)
class Belonging:
    """A file that belongs to a run as it is now."""

    run: RunFolder
    artifacts: list[str]
    """What it was made from, and what the run still has unchanged."""
    names_changed: bool
    """Whether names were given to clusters, or taken away, since the file was written."""


def belonging(file: Path, run: str | None = None) -> Belonging:
    """Return how a file belongs to its run.

    Args:
        file: a file that `table`, `assign`, `embed`, `pick` or `duplicates` wrote.
        run: folder of the run; None looks where it was when the file was written.

    Raises:
        ArtifactError: the file does not say what it was made from, the run is not found, or it no
            longer has what the file was made from.
        ConfigError: `run` does not exist, or `file` is itself a run.
    """
    if (file / "config.yaml").is_file():
        shown = shell_words(file)
        raise ConfigError(
            f"{file}: is a run, but check is for a file that was made from one.\n"
            f"  Fix: `deepcluster show {shown}` says in which condition each artifact of a run is; "
            f"check takes a file of `table`, `assign`, `embed`, `pick` or `duplicates`."
        )
    about = read_about(file)
    folder = existing_run(run) if run is not None else _run_of(file, about)
    same: list[str] = []
    for name, kind in KINDS.items():
        match about.get(name):
            case {"epoch": int(epoch), "digest": str(digest)}:
                _check_same(file, folder, kind, epoch, digest)
                same.append(f"{kind} of epoch {epoch}")
            case _:  # not made from any
                pass
    if not same:
        raise ArtifactError(
            f"{file}: does not say which labels it was made from.\n"
            f"  Fix: give a file of `table`, `assign`, `embed`, `pick` or `duplicates`."
        )
    names_changed = False
    if NAMES in about:
        names = names_at(folder, about["labels"]["epoch"])
        names_changed = digest_of_names(names) != about[NAMES]
    return Belonging(folder, same, names_changed)


def _run_of(file: Path, about: dict[str, Any]) -> RunFolder:
    """Return the run at one of the places that a file mentions."""
    places: list[Path] = []
    if isinstance(about.get(RELATIVE), str):
        places.append(file.absolute().parent / about[RELATIVE])
    if isinstance(about.get(FOLDER), str):
        if url_of(about[FOLDER]) is not None:
            return existing_run(about[FOLDER])
        places.append(Path(about[FOLDER]))
    for place in places:
        found = RunFolder(Path(os.path.normpath(place)))
        if found.config.is_file():
            return found
    looked = listed([os.path.normpath(place) for place in places])
    where = f" (looked in {looked})" if places else ""
    raise ArtifactError(
        f"{file}: its run {about.get('run', '')} is not found{where}.\n"
        f"  Fix: deepcluster check {shell_words(file)} --run RUN, if the run is elsewhere."
    )


def _check_same(file: Path, run: RunFolder, kind: str, epoch: int, digest: str) -> None:
    """Raise ArtifactError unless a run's artifact is whole, and the one with this digest."""
    folder = run.artifact(kind, epoch)
    condition, reason = inspect(folder)
    # A manifest that is left of deleted files still says what they held.
    if condition not in ("whole", "pruned"):
        raise ArtifactError(
            f"{file}: was made from the {kind} of epoch {epoch} of {run.root}, which are "
            f"{condition} ({reason}).\n  Fix: make the file again from another epoch."
        )
    found = read_manifest(folder).digest
    if found != digest:
        raise ArtifactError(
            f"{file}: is stale: {run.root} has other {kind} of epoch {epoch} now (digest "
            f"{found[:8]}) than when the file was made ({digest[:8]}).\n"
            f"  Fix: make the file again."
        )
