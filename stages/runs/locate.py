"""Find the folder of a run from what a person typed."""

from pathlib import Path

from deepcluster_core.artifacts.permissions import why_not_writable
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local, expanded
from stages.runs.access import check_readable
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.remote_runs import mirror_root, url_of


def run_path(run: str, compute: ComputeConfig | None = None) -> Path:
    """Return the folder that `run` refers to: a bare name is a folder under `runs/`.

    Args:
        run: a folder, a name or, for a run on an object store, a URL. Its folder is the mirror.
        compute: where the run computes, which decides about the place of a mirror; None for what
            the run itself says.

    Raises:
        ConfigError: the URL is not one of an object store, or holds credentials.
        StoreError: the store is not available.
    """
    url = url_of(run)
    if url is not None:
        return mirror_root(url, compute)
    check_is_local(run, "run")
    if "/" in run:
        return expanded(run, Path())
    return Path("runs") / run


def run_folder_of(run: Path) -> str:
    """Return the folder that a person means: an existing one or, for a bare name, `runs/NAME`.

    For the URL of a run on an object store, it is that of the mirror.

    Raises:
        ConfigError: the folder exists, but cannot be read.
    """
    if url_of(str(run)) is not None:
        return str(run_path(str(run)))
    check_readable(run)  # or else `exists` would raise
    meant = run if run.exists() else run_path(str(run))
    found = meant.absolute()
    check_readable(found)
    return str(found)


def own_folder(place: str, run: RunFolder) -> Path:
    """Create a folder for a result outside the run that it is made from, and return it.

    Raises:
        ConfigError: the folder lies in the run, or cannot be created.
    """
    out = expanded(place, Path())
    if out.resolve().is_relative_to(run.root.resolve()):
        raise ConfigError(f"--out {out}: lies in the run itself.\n  Fix: give another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise ConfigError(
            f"--out {out}: cannot be made a folder ({error.strerror}).\n"
            f"  Cause: {why_not_writable(out)}\n"
            f"  Fix:   give a folder that you may write."
        ) from error
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made a folder ({error.strerror}).") from error
    return out


def existing_run(run: str) -> RunFolder:
    """Return the folder of an existing run.

    Raises:
        ConfigError: the run does not exist, or its folder cannot be read.
    """
    folder = RunFolder(run_path(run))
    check_readable(folder.root)
    if not folder.config.exists():
        # The folder of a sweep, for example, holds runs without being one.
        inside = sorted(folder.root.glob("*/config.yaml"))
        found = inside or sorted(Path("runs").glob("*/config.yaml"))
        known = ", ".join(str(path.parent) for path in found)
        there = f"Here are: {known}." if known else "There is none under runs/ here."
        raise ConfigError(
            f"{folder.address}: is not a run: it has no {folder.config.name}.\n"
            f"  Fix: give the folder of a run. {there}"
        )
    return folder
