"""What a run has here and on a store, and how the two differ."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deepcluster_core.artifacts.commit import UNFINISHED
from deepcluster_core.artifacts.manifest import MANIFEST, Condition, Manifest, inspect
from deepcluster_core.artifacts.remote.lease import LEASE
from deepcluster_core.artifacts.remote.small_files import is_small_file
from deepcluster_core.artifacts.remote.store import PROBE, Store, StoredObject
from deepcluster_core.artifacts.remote.uploads import parse_manifest
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.text import listed

REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class Artifact:
    """An artifact that is committed, here or on the store."""

    name: str
    """Its folder in the run."""
    body: bytes
    """Its manifest."""
    manifest: Manifest

    @property
    def is_pruned(self) -> bool:
        """Return whether the files were deleted to save space."""
        return self.manifest.pruned


@dataclass(frozen=True)
class Inventory:
    """What a run has in one place."""

    artifacts: dict[str, Artifact]
    others: list[str]
    """Files right in the run's folder, such as config.yaml."""
    unfinished: list[str]
    """Folders of artifacts that are not committed; not known of a store."""
    sizes: dict[str, int]
    """Sizes of all files, for a store."""


def local_inventory(root: Path) -> Inventory:
    """Return what a local run has.

    Raises:
        ArtifactError: an artifact is damaged.
    """
    artifacts: dict[str, Artifact] = {}
    unfinished: list[str] = []
    folders = [path for path in root.iterdir() if _is_folder(path)]
    while folders:
        folder = folders.pop()
        name = folder.relative_to(root).as_posix()
        if (folder / MANIFEST).exists():
            artifacts[name] = _local_artifact(folder, name)
        elif (folder / UNFINISHED).exists():
            unfinished.append(name)
        else:
            folders += [path for path in folder.iterdir() if _is_folder(path)]
    others = [path.name for path in root.iterdir() if path.is_file() and is_small_file(path.name)]
    return Inventory(dict(sorted(artifacts.items())), sorted(others), sorted(unfinished), {})


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not path.name.startswith(".")


def _local_artifact(folder: Path, name: str) -> Artifact:
    condition, reason = inspect(folder)
    if condition not in (Condition.WHOLE, Condition.PRUNED):
        raise ArtifactError(
            f"{folder}: is {condition}: {reason}; nothing was sent.\n"
            f"  Fix: `deepcluster run` makes it again, or delete this folder."
        )
    body = (folder / MANIFEST).read_bytes()
    return Artifact(name, body, parse_manifest(str(folder / MANIFEST), body))


def stored_inventory(store: Store) -> Inventory:
    """Return what a run has on the store: one list, and a GET for each manifest.

    Raises:
        ArtifactError: a manifest cannot be read, or a name cannot be one of a file here.
        StoreError: the store cannot be reached.
    """
    objects = {found.name: found for found in store.list("") if _is_of_run(found)}
    manifests = [name for name in objects if name.endswith(f"/{MANIFEST}")]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        found = pool.map(lambda name: _stored_artifact(store, name), sorted(manifests))
        artifacts = {artifact.name: artifact for artifact in found if artifact is not None}
    # Consoles mark folders by objects, `labels/`, whose name arrives without the slash.
    folders = {name.partition("/")[0] for name in objects if "/" in name}
    others = [name for name in objects if is_small_file(name) and name not in folders]
    sizes = {name: found.bytes for name, found in objects.items()}
    return Inventory(artifacts, sorted(others), [], sizes)


def _is_of_run(found: StoredObject) -> bool:
    parts = PurePosixPath(found.name).parts
    if ".." in parts or "\0" in found.name or "\\" in found.name:
        raise ArtifactError(
            f"{found.name!r}: an object with this name is not a file of a run.\n"
            f"  Fix: delete it on the store."
        )
    return not parts[-1].startswith((LEASE, PROBE))


def _stored_artifact(store: Store, name: str) -> Artifact | None:
    found = store.get(name)
    if found is None:  # withdrawn meanwhile
        return None
    body, _ = found
    manifest = parse_manifest(f"{store.url}/{name}", body)
    return Artifact(name.removesuffix(f"/{MANIFEST}"), body, manifest)


def check_no_conflict(here: Inventory, there: Inventory, root: Path, url: str) -> None:
    """Raise ConfigError if the two places have different artifacts under the same name.

    Also if they have none in common: then they are two runs.
    """
    both = here.artifacts.keys() & there.artifacts.keys()
    different = [name for name in sorted(both) if not _is_same(here, there, name)]
    if different:
        names = listed(different, limit=3)
        raise ConfigError(
            f"{root}, {url}: have different artifacts: {names}.\n"
            f"  Cause: they are two runs, or one was continued with different settings\n"
            f"  Fix:   give another place, or replace them there with --update."
        )
    if here.artifacts and there.artifacts and not both:
        raise ConfigError(
            f"{root}, {url}: are two different runs: they have no artifact in common.\n"
            f"  Fix: give another place, or put them together with --update."
        )


def _is_same(here: Inventory, there: Inventory, name: str) -> bool:
    one, other = here.artifacts[name].manifest, there.artifacts[name].manifest
    return (one.key, one.digest) == (other.key, other.digest)


def to_transfer(source: Inventory, target: Inventory) -> Iterator[Artifact]:
    """Yield the artifacts that the target lacks, or has in another version.

    An artifact that was pruned on one side stays as it is on the other.
    """
    for name, artifact in source.artifacts.items():
        other = target.artifacts.get(name)
        if other is None:
            yield artifact
        elif other.manifest.digest != artifact.manifest.digest:
            yield artifact
        elif not other.is_pruned and not artifact.is_pruned and _lacks(target, other):
            yield artifact


def _lacks(target: Inventory, artifact: Artifact) -> bool:
    """Return whether files of an artifact are missing on the store, although it is committed."""
    if not target.sizes:  # a local run, whose artifacts were inspected
        return False
    for file, record in artifact.manifest.files.items():
        if target.sizes.get(f"{artifact.name}/{file}") != record.bytes:
            return True
    return False


def total_bytes(artifacts: Iterable[Artifact]) -> int:
    """Return the size of the files of some artifacts."""
    total = 0
    for artifact in artifacts:
        if not artifact.is_pruned:
            total += sum(record.bytes for record in artifact.manifest.files.values())
    return total
