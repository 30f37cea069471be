"""Names that people give to clusters, in a file of the run, and carried to other epochs and runs.

k-means numbers its clusters anew in every epoch, so a name belongs to a cluster of one epoch. At
other epochs it belongs to the cluster with the same images, if there is one. Of several clusterings
of the images, the first one has names.
"""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deepcluster_core.artifacts.file_names import LABELS
from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.artifacts.manifest import Manifest, has_manifest, read_manifest
from deepcluster_core.artifacts.mirrored import hold, publish_small, refresh_small
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.errors import ArtifactError, ConfigError
from stages.runs.folder import RunFolder

CLUSTER_NAMES = "cluster_names.csv"
"""File in the folder of a run, which people may edit."""
COLUMNS = ("epoch", "cluster", "name", "given", "labels")
MAX_CHARACTERS = 100
"""Limit on the length of a name, which has to fit into tables and captions."""


@dataclass(frozen=True)
class ClusterName:
    """The name of a cluster at an epoch, given there or carried to it."""

    cluster: int
    name: str
    given_at: int
    """The epoch at which the name was given; of another run, if the name comes from there."""
    share: float
    """Fraction of the cluster's images, 0 to 1, that come from the one that was named."""


@dataclass(frozen=True)
class NameEntry:
    """A line of the file."""

    epoch: int
    cluster: int
    name: str
    """An empty name says that no name may be carried to this cluster."""
    given: str
    """When the name was given: UTC, ISO 8601. Empty in lines written by hand."""
    labels: str
    """Digest of the labels that were named. Empty, and not checked, in lines written by hand."""


def read_entries(folder: RunFolder) -> list[NameEntry]:
    """Return the lines of a run's file; an empty list if there is none.

    Raises:
        ArtifactError: the file cannot be read as a table of names.
    """
    path = folder.root / CLUSTER_NAMES
    with explain_resource_errors(folder.root):
        if not path.exists():
            return []
        data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")  # spreadsheets write a byte order mark
        return _parsed(text)
    except (ValueError, csv.Error) as error:
        raise ArtifactError(
            f"{path}: is not a table of cluster names ({error}).\n"
            f"  Fix: repair that line, or delete the file and give the names again. The columns "
            f"are {', '.join(COLUMNS)}; the last two may be empty."
        ) from error


def _parsed(text: str) -> list[NameEntry]:
    """Return the lines of a table; raise ValueError with the number of a wrong line."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    absent = [name for name in COLUMNS[:3] if name not in (reader.fieldnames or ())]
    if absent:
        raise ValueError(f"line 1: there is no column {' and no column '.join(absent)}")
    entries: list[NameEntry] = []
    for row in reader:
        try:
            epoch, cluster = int(row["epoch"]), int(row["cluster"])
        except ValueError as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
        name = row["name"].strip()
        entry = NameEntry(epoch, cluster, name, row.get("given", ""), row.get("labels", ""))
        entries.append(entry)
    return entries


def is_current(folder: RunFolder, entry: NameEntry) -> bool:
    """Return whether the labels that an entry names a cluster of still exist, and are the same."""
    manifest = _manifest(folder, entry.epoch)
    if manifest is None:
        return False
    is_same = entry.labels in ("", manifest.digest)
    return is_same and 0 <= entry.cluster < manifest.facts["k"]


def name_cluster(folder: RunFolder, *, epoch: int, cluster: int, name: str) -> None:
    """Give a name to a cluster of an epoch; an empty name leaves the cluster without one.

    Raises:
        ConfigError: the run has no labels of the epoch, the epoch does not have the cluster, or the
            name is too long or cannot be printed.
        ArtifactError: the file of names is damaged, or cannot be written.
    """
    name_clusters(folder, epoch=epoch, names={cluster: name})


def name_clusters(folder: RunFolder, *, epoch: int, names: Mapping[int, str]) -> None:
    """Give names to several clusters of an epoch at once, as `name_cluster` does to one."""
    checked: dict[int, str] = {}
    digest = _check_clusters(folder, epoch, names)
    for cluster, name in names.items():
        checked[cluster] = check_name(name)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    given = [NameEntry(epoch, cluster, name, now, digest) for cluster, name in checked.items()]

    def changed(entries: list[NameEntry]) -> list[NameEntry]:
        kept = [one for one in entries if one.epoch != epoch or one.cluster not in checked]
        # An empty name is only stored where another one would be carried to the cluster.
        carried = _names_at(folder, epoch, kept)
        return kept + [one for one in given if one.name or one.cluster in carried]

    _change(folder, changed)


def check_name(name: str) -> str:
    """Return a name without spaces around it.

    Raises:
        ConfigError: it is too long, or has characters that cannot be printed.
    """
    name = name.strip()
    if len(name) > MAX_CHARACTERS:
        raise ConfigError(
            f"name: has {len(name)} characters.\n  Fix: use at most {MAX_CHARACTERS}."
        )
    if not name.isprintable():
        raise ConfigError(f"name {name!r}: cannot be printed.\n  Fix: write it in one line.")
    return name


def names_at(folder: RunFolder, epoch: int) -> dict[int, ClusterName]:
    """Return the names of clusters at an epoch, by cluster.

    A name given at the epoch itself wins. Others are carried there by the images that clusters
    share, those of the nearest epochs first. Each name is carried to one cluster at most, and each
    cluster has one name. Names of labels that were replaced since are left out.

    Raises:
        ArtifactError: the file of names, or a table of labels, is damaged.
    """
    return _names_at(folder, epoch, read_entries(folder))


def _names_at(folder: RunFolder, epoch: int, entries: list[NameEntry]) -> dict[int, ClusterName]:
    by_epoch: dict[int, dict[int, str]] = {}
    for entry in entries:
        if is_current(folder, entry):
            by_epoch.setdefault(entry.epoch, {})[entry.cluster] = entry.name
    own = by_epoch.pop(epoch, {})
    found = {number: ClusterName(number, name, epoch, 1.0) for number, name in own.items()}
    used = set(own.values())
    # The nearest epochs know most; of two equally near ones, the later knows more.
    for other in sorted(by_epoch, key=lambda number: (abs(number - epoch), -number)):
        names = {number: name for number, name in by_epoch[other].items() if name not in used}
        for one in _carried(folder, other, names, folder, epoch):
            found.setdefault(one.cluster, one)
        # A name that was given again nearer by has moved on, even if it cannot be carried.
        used.update(names.values())
    return {number: found[number] for number in sorted(found) if found[number].name}


def names_from(
    other: RunFolder, other_epoch: int, folder: RunFolder, epoch: int
) -> dict[int, ClusterName]:
    """Return names of another run's clusters, carried to the clusters of a run at an epoch.

    Images are found in the other run by their number, or by their path if the runs have packed
    their images separately.

    Raises:
        ArtifactError: the file of names, or a table of labels, is missing or damaged, or the runs
            share no image.
    """
    named = names_at(other, other_epoch)
    names = {number: one.name for number, one in named.items()}
    carried = _carried(other, other_epoch, names, folder, epoch)
    return {one.cluster: one for one in carried}


def _carried(
    folder: RunFolder, since: int, names: Mapping[int, str], onto: RunFolder, until: int
) -> list[ClusterName]:
    """Return names of an epoch's clusters, carried to another epoch; one name a cluster at most."""
    if not any(names.values()) or _manifest(onto, until) is None:
        return []
    # Imported here, because a run without names does not need scipy.
    from deepcluster_core.artifacts.label_pairs import read_label_pair  # noqa: PLC0415
    from deepcluster_core.clustering.successors import successors  # noqa: PLC0415

    pair = read_label_pair(_labels(folder, since), _labels(onto, until))
    named = [number for number, name in names.items() if name]
    found: dict[int, ClusterName] = {}
    for previous, successor in successors(pair.before_N, pair.after_N, named).items():
        one = ClusterName(successor.cluster, names[previous], since, successor.share)
        before = found.get(one.cluster)
        # Of several that merged, the one that gave most of the images keeps its name.
        if before is None or one.share > before.share:
            found[one.cluster] = one
    return list(found.values())


def _change(folder: RunFolder, changed: Callable[[list[NameEntry]], list[NameEntry]]) -> None:
    """Replace the lines of the file by what `changed` makes of them, one process at a time."""
    path = folder.root / CLUSTER_NAMES
    # A lease needs a folder, which on some object stores must not have the name of a file.
    leased = folder.root / "_cluster_names"
    with explain_resource_errors(folder.root), hold(path, within=leased):
        refresh_small(path)
        entries = sorted(changed(read_entries(folder)), key=lambda one: (one.epoch, one.cluster))
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in entries:
            writer.writerow([one.epoch, one.cluster, one.name, one.given, one.labels])
        write_atomically(path, text.getvalue().encode())
        publish_small(path)


def _check_clusters(folder: RunFolder, epoch: int, clusters: Mapping[int, str]) -> str:
    """Return the digest of an epoch's labels; raise ConfigError if it lacks one of the clusters."""
    manifest = _manifest(folder, epoch)
    if manifest is None:
        raise ConfigError(
            f"--epoch {epoch}: {folder.address} has no labels of it.\n"
            f"  Fix: deepcluster show {folder.address} lists what there is."
        )
    k = manifest.facts["k"]
    for cluster in clusters:
        if not 0 <= cluster < k:
            raise ConfigError(
                f"cluster {cluster}: epoch {epoch} has clusters 0 to {k - 1}.\n"
                f"  Fix: name one of them."
            )
    return manifest.digest


def _manifest(folder: RunFolder, epoch: int) -> Manifest | None:
    """Return the manifest of an epoch's labels; None if the epoch has none."""
    labels = folder.artifact("labels", epoch)
    return read_manifest(labels) if has_manifest(labels) else None


def _labels(folder: RunFolder, epoch: int) -> Path:
    return folder.artifact("labels", epoch) / LABELS
