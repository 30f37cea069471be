"""What `deepcluster show` prints about artifacts that several ranks made together."""

from collections.abc import Iterator, Mapping

from rich.console import Console

from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.text import readable_size
from flows.show.terminal import table_of_numbers
from stages.runs.epoch import EPOCH_STAGES
from stages.runs.states import ArtifactState

NUM_CALLS = 6
"""Largest number of calls that are listed by name for an artifact."""


def print_ranks(by_epoch: Mapping[int, Mapping[str, ArtifactState]], console: Console) -> None:
    """Print how many ranks made each artifact, and how much they sent; nothing for single ranks.

    Args:
        by_epoch: the artifacts of the epochs to print, by kind. If it is a single epoch, the bytes
            are also listed by the name of the call.
        console: console to print on.
    """
    found: dict[int, dict[str, Manifest]] = {}
    for epoch, states in by_epoch.items():
        found[epoch] = dict(_made_by_ranks(states))
    if not any(found.values()):
        return
    names = [name for name in EPOCH_STAGES if any(name in made for made in found.values())]
    headers = ["epoch"]
    for name in names:
        headers += [f"{name}\nranks", "\nsent"]
    rows: list[tuple[str, ...]] = []
    for epoch, made in found.items():
        cells = [str(epoch)]
        for name in names:
            cells += _cells(made.get(name))
        rows.append(tuple(cells))
    console.print(table_of_numbers(tuple(headers), rows))
    console.print(
        "\nsent: the most that a rank sent to others; GiB: the peak of the largest rank\n"
    )
    if len(found) == 1:
        (made,) = found.values()
        _print_calls(made, console)


def remark_on(manifest: Manifest) -> str:
    """Return by how many ranks an artifact was made, and how much they sent; empty for one."""
    if manifest.ranks is None:
        return ""
    return f"{manifest.ranks} ranks, {readable_size(_sent(manifest))} sent"


def _made_by_ranks(states: Mapping[str, ArtifactState]) -> Iterator[tuple[str, Manifest]]:
    """Yield stages whose artifacts were made by several ranks, and the manifests."""
    for name, stage in EPOCH_STAGES.items():
        state = states.get(stage.kind)
        if state is None or not state.key:  # an epoch without training has no checkpoint
            continue
        manifest = read_manifest(state.folder)
        if manifest.ranks is not None:
            yield name, manifest


def _cells(manifest: Manifest | None) -> tuple[str, str]:
    if manifest is None:
        return "–", "–"
    return str(manifest.ranks), readable_size(_sent(manifest))


def _sent(manifest: Manifest) -> int:
    return sum((manifest.moved_bytes or {}).values())


def _print_calls(made: Mapping[str, Manifest], console: Console) -> None:
    """Print what the ranks sent, by the name of the call, the largest first."""
    for name, manifest in made.items():
        moved = manifest.moved_bytes or {}
        calls = sorted(moved, key=lambda call: moved[call], reverse=True)
        parts = [f"{call} {readable_size(moved[call])}" for call in calls[:NUM_CALLS]]
        if len(calls) > NUM_CALLS:
            parts.append(f"and {len(calls) - NUM_CALLS} more")
        console.print(f"{name} sent: {', '.join(parts)}", markup=False)
    console.print()
