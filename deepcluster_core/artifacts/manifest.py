"""The manifest `_manifest.json`: what an artifact was made from, and a check of its files.

An artifact is one folder. Its manifest is written last, so a folder without a valid manifest is
not an artifact, whatever else is in it.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer
from pydantic_core import from_json

from deepcluster_core.artifacts.files import FileRecord, Signature, sha256_at, signature_of
from deepcluster_core.artifacts.mirrored import compare, mirror_of
from deepcluster_core.artifacts.permissions import may_read, why_not_readable
from deepcluster_core.config import StrictConfig
from deepcluster_core.errors import ArtifactError, NewerArtifactError, StoreError, first_line
from deepcluster_core.shortage import explain_damage

MANIFEST = "_manifest.json"
FORMAT = 2
"""The newest format. Format 2 has the fields of artifacts that several ranks have made; all other
artifacts are written in format 1, which earlier versions of this program can read."""

# A run checks all of its artifacts after every epoch. Results are cached by path until a file
# changes, so that the check takes no longer after 500 epochs than after 5.
_MANIFESTS: "dict[str, tuple[Signature | None, Manifest]]" = {}
"""Parsed manifests by path, each with the signature of its file."""
_WHOLE: "dict[str, tuple[Manifest, list[Signature | None]]]" = {}
"""Artifacts found whole, by folder: their manifest and the signatures of their files."""
_KEYS: dict[object, str] = {}
"""Keys by the values that they are computed from."""


@dataclass(frozen=True)
class Stage:
    """The identity of a stage, on which its artifacts depend."""

    name: str
    version: int
    """Increased when unchanged inputs and settings would give a different artifact."""
    kind: str
    """The kind of its artifacts and their folder in a run, such as `features` or `labels`."""
    files: tuple[str, ...]
    """Files and folders of an artifact, besides the manifest."""
    optional_files: tuple[str, ...] = ()
    """Files and folders that an artifact has with some settings only."""

    @property
    def possible_files(self) -> tuple[str, ...]:
        """All files and folders that an artifact can have, besides the manifest."""
        return (*self.files, *self.optional_files)


class Provenance(StrictConfig):
    """When, where and with which software an artifact was made; not part of any key or digest."""

    created: str
    code_version: str
    git_commit: str | None
    python: str
    libraries: dict[str, str]
    device: str


class Manifest(StrictConfig):
    """The description of an artifact."""

    format: Literal[1, 2] = 1
    stage: str
    version: int
    key: str
    """Digest of stage, version, configuration, seed, epoch and the digests of the inputs."""
    digest: str
    """Digest of the contents; part of the key of every stage that reads the artifact."""
    inputs: dict[str, str]
    config: dict[str, Any]
    seed: int
    epoch: int | None
    rows: int
    """Number of images; for a checkpoint, the number of images trained on, with repetitions."""
    bytes: int
    seconds: float
    peak_memory_bytes: int
    """Peak main memory of the process; of several ranks, the largest."""
    peak_device_bytes: int | None = None
    """Peak GPU memory of torch's tensors, without that of faiss; None on a CPU. Of several ranks,
    the largest."""
    facts: dict[str, Any]
    """Values that the stage recorded, by name."""
    files: dict[str, FileRecord]
    provenance: Provenance
    ranks: int | None = None
    """Number of ranks that made the artifact together; None if it was a single process."""
    moved_bytes: dict[str, int] | None = None
    """Bytes that a rank sent to others, by the name of the call; the largest number of any rank."""
    attempt: str | None = None
    """Random name of the attempt that made an artifact on an object store, by which a process
    recognises its own manifest if the store's response was lost; None for local runs."""
    pruned: bool = False
    """The files were deleted to save space; the digest still stands for them."""
    checksum: str = ""
    """Digest of all fields above, because no other file records a hash of the manifest."""

    @field_validator("files")
    @classmethod
    def _in_the_folder(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        # A manifest may come from an untrusted source, and the files that it names are read.
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ValueError(f"{name!r} is not the name of a file in an artifact")
        return files

    @model_serializer(mode="wrap")
    def _without_absent_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields that few artifacts have, also where a checksum is computed."""
        dumped: dict[str, Any] = serialize(self)
        for name in ("ranks", "moved_bytes", "attempt"):
            if dumped.get(name) is None:
                dumped.pop(name, None)
        return dumped

    def sealed(self) -> "Manifest":
        """Return the manifest with its checksum."""
        return self.model_copy(update={"checksum": self._digest()})

    def is_intact(self) -> bool:
        """Return whether the manifest is unchanged since it was sealed."""
        return self.checksum == self._digest()

    def _digest(self) -> str:
        return digest_of(self.model_dump(mode="json", exclude={"checksum"}))


class Condition(StrEnum):
    """The condition of an artifact's folder, as found by `inspect`."""

    WHOLE = "whole"
    PRUNED = "pruned"
    MISSING = "missing"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    """Files exist, but this user may not read them; the artifact may be whole."""


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of a value, which digests are computed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of(value: object) -> str:
    """Return the SHA-256, in hexadecimal, of a value of plain dicts, lists and scalars."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def artifact_key(
    stage: Stage,
    *,
    config: Mapping[str, StrictConfig],
    inputs: Mapping[str, str],
    seed: int,
    epoch: int | None,
) -> str:
    """Return the key of an artifact made from these inputs; equal keys mean equal artifacts.

    Args:
        stage: the stage, whose name and version are part of the key.
        config: the sections of the recipe that the stage reads, by name.
        inputs: digests of its inputs, by parameter name.
        seed: seed of the run.
        epoch: the epoch, or None for a stage that runs once per run.

    Raises:
        ArtifactError: a file whose contents the artifact depends on cannot be read.
    """
    # A run asks for the keys of all its artifacts after every epoch.
    sections = tuple(
        (name, section.model_dump_json(), *_file_digests(name, section).values())
        for name, section in config.items()
    )
    input_digests = tuple(inputs.items())
    made_from = (stage.name, stage.version, sections, input_digests, seed, epoch)
    if made_from not in _KEYS:
        values = {
            "stage": [stage.name, stage.version],
            "config": dump_sections(config),
            "inputs": dict(inputs),
            "seed": seed,
            "epoch": epoch,
        }
        _KEYS[made_from] = digest_of(values)
    return _KEYS[made_from]


def dump_sections(config: Mapping[str, StrictConfig]) -> dict[str, Any]:
    """Return sections of a recipe as plain values for manifests and keys.

    A file that a section names is represented by the digest of its contents.

    Raises:
        ArtifactError: such a file cannot be read.
    """
    dumped: dict[str, Any] = {}
    for name, section in config.items():
        values = section.model_dump(mode="json")
        _leave_out_absent(section, values)
        for key, former_default in section.keyed_when_none.items():
            if values[key] is None:
                values[key] = former_default
        dumped[name] = values | _file_digests(name, section)
    return dumped


def _leave_out_absent(section: StrictConfig, values: dict[str, Any]) -> None:
    """Leave out what is None and was added later, so that the keys of older artifacts hold.

    Args:
        section: a section, or one of its parts.
        values: its plain values, which are changed.
    """
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), field.alias or name
        if value is None and name in section.absent_when_none:
            del values[key]
        elif isinstance(value, StrictConfig):
            _leave_out_absent(value, values[key])


def _file_digests(name: str, section: StrictConfig) -> dict[str, str]:
    """Return the digests of the files that a section names, by key."""
    digests: dict[str, str] = {}
    for field in sorted(section.by_contents):
        path: Path | None = getattr(section, field)
        if path is None:
            continue
        key = type(section).model_fields[field].alias or field
        try:
            status = path.stat()
            sha256 = sha256_at(path, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise ArtifactError(
                f"{name}.{key}: {path} cannot be read.\n"
                f"  Cause: {error.strerror}; artifacts depend on the contents of this file\n"
                f"  Fix:   put the file back, or give its new path as {name}.{key}"
            ) from error
        digests[key] = f"sha256:{sha256}"
    return digests


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a committed artifact without checking the artifact's files.

    The manifest is parsed again only if its file has changed. Callers share the object and must not
    change it.

    Raises:
        ArtifactError: the manifest is missing or cannot be read.
        NewerArtifactError: a newer version of this program wrote it.
    """
    compare(folder)
    path = f"{folder}/{MANIFEST}"
    if path in _MANIFESTS:
        signature, manifest = _MANIFESTS[path]
        if signature == signature_of(path):
            return manifest

    def explain(error: Exception) -> ArtifactError:
        if isinstance(error, FileNotFoundError):
            return ArtifactError(
                f"{folder}: does not hold a finished artifact ({MANIFEST} is missing).\n"
                f"  Fix: run the stage that makes it; `deepcluster show RUN` lists what a run has."
            )
        return ArtifactError(
            f"{path}: cannot be read as a manifest of this version of the program.\n"
            f"  Cause: {first_line(error)}\n"
            f"  Fix:   run the stage again; the files in the folder are not used."
        )

    with explain_damage(explain, OSError, ValueError):  # pydantic's error is a ValueError
        signature, manifest = _parse(Path(path))
        _MANIFESTS[path] = signature, manifest
        return manifest


def has_manifest(folder: Path) -> bool:
    """Return whether a folder holds a committed artifact, which may be damaged."""
    compare(folder)
    return (folder / MANIFEST).exists()


def _parse(path: Path) -> "tuple[Signature | None, Manifest]":
    with path.open("rb") as file:
        # By the open file, because the path may be replaced before it is read.
        signature = signature_of(file.fileno())
        data = file.read()
    return signature, validated_manifest(path, data)


def validated_manifest(path: str | Path, data: bytes) -> Manifest:
    """Return the manifest in the contents of a file; the path is for messages.

    Raises:
        ValueError: they are not a manifest of this version of the program.
        NewerArtifactError: a newer version of this program wrote it.
    """
    _check_format(path, data)
    manifest = Manifest.model_validate_json(data)
    if not manifest.is_intact():
        raise ValueError("its checksum differs: it was changed after it was written")
    return manifest


def _check_format(path: str | Path, data: bytes) -> None:
    """Raise NewerArtifactError for a manifest of a newer format."""
    found = from_json(data)  # json.loads raises RecursionError for deeply nested brackets
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise NewerArtifactError(
            f"{path}: has format {number}, but this version of the program supports {FORMAT}.\n"
            f"  Cause: a later version wrote it; it is left unchanged.\n"
            f"  Fix:   update this program, or choose a different folder."
        )


def inspect(folder: Path) -> tuple[Condition, str]:
    """Return the condition of the artifact in `folder` and the reason, empty if it is whole.

    An artifact on an object store is whole if its manifest is here; files are fetched when needed.

    Raises:
        StoreError: the artifact is on an object store that is not available.
    """
    try:
        return _inspected(folder)
    except PermissionError as error:
        denied = folder
        if isinstance(error.filename, str):
            denied = Path(error.filename)
        return Condition.UNREADABLE, why_not_readable(denied)


def _inspected(folder: Path) -> tuple[Condition, str]:
    """Return the result of `inspect` for a readable artifact.

    Raises:
        PermissionError: a file or folder may not be read.
    """
    try:
        manifest = read_manifest(folder)
    except StoreError:
        raise  # the artifact may be whole
    except ArtifactError as error:
        if isinstance(error.__cause__, PermissionError):
            raise error.__cause__ from error
        return _without_manifest(folder, error)
    if manifest.pruned:
        return Condition.PRUNED, "deleted to save space; made again when a stage needs it"
    # Check the files again only if the manifest or one of them has changed.
    place = str(folder)
    signatures = [signature_of(f"{place}/{name}") for name in manifest.files]
    known_manifest, known_signatures = _WHOLE.get(place, (None, []))
    if known_manifest is not manifest or known_signatures != signatures:
        problem = _first_problem(folder, manifest)
        if problem is not None:
            return Condition.DAMAGED, problem
        _WHOLE[place] = manifest, signatures
    return Condition.WHOLE, ""


def _without_manifest(folder: Path, error: ArtifactError) -> tuple[Condition, str]:
    """Return the condition of a folder whose manifest cannot be read."""
    if (folder / MANIFEST).exists():
        return Condition.DAMAGED, first_line(error)
    if not folder.exists() or not any(folder.iterdir()):
        return Condition.MISSING, "nothing there"
    return Condition.UNFINISHED, f"no {MANIFEST}: its stage did not end"


def _first_problem(folder: Path, manifest: Manifest) -> str | None:
    """Return how the files of an artifact first differ from its manifest, or None.

    Raises:
        PermissionError: a file may not be read.
    """
    is_elsewhere = _is_on_a_store(folder)
    for name, record in manifest.files.items():
        path = folder / name
        if is_elsewhere and not path.exists():
            continue  # it is fetched when it is read
        problem = record.problem_of(path)
        if problem and is_elsewhere:
            path.unlink()  # a copy; it is fetched again
            continue
        if problem:
            return f"{name}: {problem}"
        # Large files are not hashed, so nothing has opened them.
        if not may_read(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return None


def _is_on_a_store(folder: Path) -> bool:
    """Return whether an object store has all files of an artifact, so that none need be here."""
    mirror = mirror_of(folder)
    return mirror is not None and not mirror.is_unpublished(folder)
