"""What `deepcluster check` prints."""

from pathlib import Path

from deepcluster_core.text import printable
from flows.show.terminal import console_for_tables, short
from stages.runs.outputs.origin import belonging


def show_belonging(file: Path, run: str | None) -> None:
    """Print that a file belongs to its run.

    Raises:
        ArtifactError: it does not.
    """
    found = belonging(file, run)
    made_from = " and ".join(found.artifacts)
    console = console_for_tables()
    console.print(
        f"{printable(str(file))}: belongs to {short(found.run.root)}, whose {made_from} are "
        f"unchanged."
    )
    if found.names_changed:
        console.print("Names of clusters have changed since: the column cluster_name is old.")
