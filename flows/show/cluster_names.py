"""What `deepcluster name` does and prints, and how other tables show names of clusters."""

from collections.abc import Mapping

from deepcluster_core.errors import ConfigError
from deepcluster_core.text import printable, share
from flows.show.terminal import console_for_tables, shell_path, short
from stages.runs.cluster_names import (
    CLUSTER_NAMES,
    ClusterName,
    is_current,
    name_cluster,
    name_clusters,
    names_at,
    names_from,
    read_entries,
)
from stages.runs.folder import RunFolder
from stages.runs.labelled_epochs import epoch_with_labels


def give_name(folder: RunFolder, cluster: int, name: str, epoch: int | None) -> None:
    """Give a name to a cluster and print it; an empty name takes it away.

    Raises:
        ConfigError: the epoch or the cluster does not exist, or the name cannot be used.
    """
    number = epoch_with_labels(folder, epoch)
    name_cluster(folder, epoch=number, cluster=cluster, name=name)
    console = console_for_tables()
    name = printable(name.strip())
    if name:
        console.print(f"epoch {number}, cluster {cluster}: {name}")
    else:
        console.print(f"epoch {number}, cluster {cluster} has no name")


def take_names(folder: RunFolder, other: RunFolder, epoch: int | None) -> None:
    """Give the clusters of a run the names that another run's clusters of these images have.

    Clusters that have a name keep it. The names of the other run are those of its last epoch.

    Raises:
        ConfigError: a run or an epoch has no labels, or the other run has no names.
        ArtifactError: the runs share no image, or a file is damaged.
    """
    number = epoch_with_labels(folder, epoch)
    since = epoch_with_labels(other, None)
    if not names_at(other, since):
        raise ConfigError(
            f"{short(other.root)}: its clusters have no names at epoch {since}.\n"
            f"  Fix: deepcluster name {shell_path(other.root)} CLUSTER NAME"
        )
    found = names_from(other, since, folder, number)
    kept = names_at(folder, number)
    new = {cluster: one for cluster, one in found.items() if cluster not in kept}
    name_clusters(folder, epoch=number, names={key: one.name for key, one in new.items()})
    console = console_for_tables()
    console.print(
        f"{len(new)} names from epoch {since} of {short(other.root)}, for epoch {number}; "
        f"{len(found) - len(new)} clusters keep the name that they have"
    )
    if new:
        console.print()
        _print_names(new, number, of_other=True)


def list_names(folder: RunFolder, epoch: int | None) -> None:
    """Print the names of clusters at an epoch, how well they are matched, and which do not count.

    Raises:
        ConfigError: the run or the epoch has no labels.
        ArtifactError: the file of names is damaged.
    """
    number = epoch_with_labels(folder, epoch)
    names = names_at(folder, number)
    console = console_for_tables()
    if names:
        _print_names(names, number, of_other=False)
    else:
        console.print(
            f"epoch {number} has no names.\n"
            f"  Give one: deepcluster name {shell_path(folder.root)} CLUSTER NAME"
        )
    stale = [entry for entry in read_entries(folder) if not is_current(folder, entry)]
    for entry in stale:
        console.print(
            f"not used: {printable(entry.name)}, of cluster {entry.cluster} at epoch "
            f"{entry.epoch}, whose labels were replaced since"
        )
    if stale:
        console.print(f"  Give these names again, or delete them from {CLUSTER_NAMES} of the run")


def _print_names(names: Mapping[int, ClusterName], epoch: int, *, of_other: bool) -> None:
    console = console_for_tables()
    console.print(f"{'cluster':>7}  {'share':>5}  name")
    for number, one in names.items():
        carried = of_other or one.given_at != epoch
        origin = f"  (given at epoch {one.given_at})" if carried and not of_other else ""
        part = share(one.share) if carried else ""
        console.print(f"{number:7}  {part:>5}  {printable(one.name)}{origin}")
    if any(of_other or one.given_at != epoch for one in names.values()):
        console.print("\nshare: of the cluster's images, those of the cluster that was named")


def named(cluster: int, names: Mapping[int, ClusterName]) -> str:
    """Return a cluster's number and, if it has one, its name in brackets."""
    if cluster not in names:
        return str(cluster)
    return f"{cluster} ({printable(names[cluster].name)})"
