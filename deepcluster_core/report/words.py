"""Remarks on a run's metrics: sentences on what an expert of the method would look at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepcluster_core.clustering.changes import Change
from deepcluster_core.clustering.stability import Stability
from deepcluster_core.health import CHANCE, Sign, signs
from deepcluster_core.text import known, number, share

Row = Mapping[str, Any]
"""Metrics of an epoch by the names of their columns, together with `epoch`."""

JUDGED = ("k", "effective_clusters", "largest_fraction", "empty_clusters")
"""Metrics that are needed to look for signs of trouble."""

RISING = 0.01
"""Least increase in mean NMI, from the three epochs before to the last three, that counts as still
rising. Our choice: in the demo, NMI fluctuates by as much from one epoch to the next."""

ABOUT_RANK = (
    "A high rank alone means little, because a random network has one, too. Compare it with epoch "
    "0, and between runs that differ in little."
)


@dataclass(frozen=True)
class Remark:
    """A remark on a run."""

    tone: Literal["good", "plain", "bad"]
    title: str
    text: str


def remarks(rows: Sequence[Row], stability: Stability | None = None) -> list[Remark]:
    """Return remarks on the epochs so far, signs of trouble first.

    Args:
        rows: metrics of the scored epochs, in order. Without rows there are no remarks.
        stability: how long images stayed with their clusters, if that is known.
    """
    if not rows:
        return []
    found = [
        *_troubles(rows),
        _loss(rows),
        _stability(rows),
        _stayed(stability),
        _agreement(rows),
        _labels(rows),
        _rank(rows),
        _sizes(rows[-1]),
    ]
    return [remark for remark in found if remark is not None]


def _troubles(rows: Sequence[Row]) -> Iterator[Remark]:
    """Yield a remark for each sign that epochs learn nothing, with advice.

    A sign that occurs in several epochs is described as in the last of them.
    """
    last: dict[str, Sign] = {}
    epochs: dict[str, list[int]] = {}
    for row in rows:
        # Rows of an earlier version may lack metrics; such epochs cannot be judged.
        if not all(known(row.get(name)) for name in JUDGED):
            continue
        for sign in signs(row):
            last[sign.name] = sign
            epochs.setdefault(sign.name, []).append(row["epoch"])

    for name, sign in last.items():
        seen = epochs[name]
        if len(seen) == 1:
            where = f"epoch {seen[0]}"
        else:
            where = f"{len(seen)} epochs, last {seen[-1]}"
        # `capitalize` would put the rest of the sentence into lower case.
        first, rest = sign.sentence[:1], sign.sentence[1:]
        sentence = first.upper() + rest
        text = f"{sentence} ({where}). What helps: {sign.advice}"
        title = name.replace("_", " ").capitalize()
        yield Remark("bad", title, text)


def _loss(rows: Sequence[Row]) -> Remark | None:
    """Return a remark that compares the loss with ln k, that of a head that knows nothing."""
    seen = _known(rows, "loss")
    if not seen:
        return None
    begin, first = seen[0]
    end, last = seen[-1]
    # The loss of a head that knows nothing is the yardstick.
    chance = rows[-1].get("ln_k")
    now = f"After epoch {end} it is {number(last)}"
    comparison = ""
    is_near_chance = False
    if known(chance):
        comparison = f"; with nothing learnt it would be ln k = {number(chance)}"
        is_near_chance = last >= CHANCE * chance

    if len(seen) == 1:
        text = f"{now}{comparison}. It should fall from epoch to epoch."
        return Remark("plain", "Loss", text)
    text = f"{now}, after epoch {begin} it was {number(first)}{comparison}."
    if last >= first or is_near_chance:
        text += " The network cannot tell the clusters apart."
        return Remark("bad", "The loss does not fall", text)
    text += " The network learns to tell the clusters apart."
    return Remark("good", "The loss falls", text)


def _stability(rows: Sequence[Row]) -> Remark | None:
    """Return a remark on the NMI of successive epochs, after section 4.1 and figure 2(b)."""
    seen = _known(rows, "nmi_previous")
    if not seen:
        return None
    begin, first = seen[0]
    end, last = seen[-1]
    moved = rows[-1].get("moved_fraction")
    paper = "In the paper it rises and saturates below 0.8 (section 4.1, figure 2b)."
    # NMI compares an epoch with the one before.
    text = f"NMI {number(last)} between the clusters of epochs {end - 1} and {end}"
    if known(moved):
        text += f"; {share(moved)} of the images changed company"
    if len(seen) == 1:
        return Remark("plain", "Stability of the clusters", f"{text}. {paper}")
    text += f". It began at {number(first)} in epoch {begin}. {paper}"
    if last < first:
        return Remark("bad", "The clusters become less stable", text)
    values = [value for _, value in seen]
    if _still_rises(values):
        text += " It still rises: more epochs may help."
    return Remark("good", "The clusters settle", text)


def _stayed(stability: Stability | None) -> Remark | None:
    """Return a remark on how many images stayed with their cluster over several epochs."""
    if stability is None or stability.epochs < 2:  # one epoch is covered by the NMI
        return None
    text = (
        f"On average an image was with its present cluster in {share(stability.mean)} of the last "
        f"{stability.epochs} epochs: {share(stability.always)} of the images in all of them, "
        f"{share(stability.never)} in none. Clusters are matched one to one between epochs."
    )
    return Remark("plain", "How long images stay", text)


def _agreement(rows: Sequence[Row]) -> Remark | None:
    """Return a remark on measures that need several views of an image, or several clusterings."""
    parts: list[str] = []
    if views := _known(rows, "view_agreement"):
        epoch, value = views[-1]
        parts.append(
            f"Two views of an image fall into one cluster for {share(value)} of the images "
            f"(epoch {epoch})."
        )
    if heads := _known(rows, "head_agreement"):
        epoch, value = heads[-1]
        parts.append(
            f"Two clusterings of the same images, begun differently, have an NMI of "
            f"{number(value)} (epoch {epoch})."
        )
    if not parts:
        return None
    parts.append(
        "Both measures need no labels: the higher, the less the clusters depend on chance. "
        "Collapsed features can have high values, too."
    )
    return Remark("plain", "Agreement without labels", " ".join(parts))


def _rank(rows: Sequence[Row]) -> Remark | None:
    """Return a remark on the rank of the features; epoch 0 has those of an untrained network."""
    seen = _known(rows, "rankme")
    if not seen:
        return None
    begin, first = seen[0]
    end, last = seen[-1]
    text = f"RankMe {last:.1f} in epoch {end}"
    if begin < end:
        untrained = ", that of the network as initialised" if begin == 0 else ""
        text += f", {first:.1f} in epoch {begin}{untrained}"
    return Remark("plain", "Rank of the features", f"{text}. {ABOUT_RANK}")


def _still_rises(values: Sequence[float]) -> bool:
    # Means of three epochs, since NMI fluctuates from one epoch to the next.
    if len(values) < 6:
        return False
    latest_mean = sum(values[-3:]) / 3
    mean_before = sum(values[-6:-3]) / 3
    return latest_mean - mean_before > RISING


def _labels(rows: Sequence[Row]) -> Remark | None:
    """Return a remark on the NMI with the true labels, after section 4.1 and figure 2(a).

    In the paper, the dependence between clusters and labels increases.
    """
    seen = _known(rows, "nmi_labels")
    if not seen:
        return None
    begin, first = seen[0]
    end, last = seen[-1]
    text = f"NMI {number(last)} in epoch {end}"
    explanation = "No label was used to learn; it only judges the clusters."
    if begin == end:
        return Remark("plain", "Agreement with the true labels", f"{text}. {explanation}")

    # The clusters of epoch 0 come from an untrained network, which makes them the baseline.
    if begin == 0:
        earlier = "the clusters of the network as initialised, epoch 0, have"
    else:
        earlier = f"those of epoch {begin} have"
    text += f"; {earlier} {number(first)}. {explanation}"
    if last <= first:
        return Remark("bad", "The clusters agree less with the true labels", text)
    return Remark("good", "The clusters agree more with the true labels", text)


def _sizes(row: Row) -> Remark | None:
    # Rows of an earlier version may lack some of these metrics.
    effective = row.get("effective_clusters")
    k = row.get("k")
    largest = row.get("largest_fraction")
    if not (known(effective) and known(k) and known(largest)):
        return None
    num_empty = row.get("empty_clusters")
    if num_empty == 0:
        empty = "no cluster is empty"
    else:
        empty = f"{number(num_empty)} clusters are empty"
    text = (
        f"As spread out as {effective:.1f} clusters of equal size, of k = {number(k)}; "
        f"the largest holds {share(largest)} of the images, {empty}."
    )
    return Remark("plain", "Sizes of the clusters", text)


def _known(rows: Sequence[Row], column: str) -> list[tuple[int, float]]:
    """Return the epochs with a known value in a column, each with its value."""
    found: list[tuple[int, float]] = []
    for row in rows:
        value = row.get(column)
        if known(value):
            found.append((row["epoch"], value))
    return found


def cluster_history(changes: Sequence[Change], epoch: int) -> str:
    """Return a sentence on the origin of a cluster in the epoch before.

    Args:
        changes: all changes from which the cluster results, at least one.
        epoch: the cluster's own epoch, not the one before.
    """
    first = changes[0]
    before = f"of epoch {epoch - 1}"
    parent = f"cluster {first.previous} {before}"
    shared = f"{first.shared:,} of its {first.previous_size:,} images"
    came_along = f"{shared} came along (Jaccard {first.jaccard:.2f})"
    match first.kind:
        case "same":
            return f"The same as {parent}: {came_along}"
        case "moved":
            return f"Moved on from {parent}: {came_along}"
        case "split":
            return f"Split off {parent}: {shared}"
        case "merged":
            # The parent that gave most images is named first.
            by_shared = sorted(changes, key=lambda change: -change.shared)
            parents = [f"{change.previous} ({change.shared:,} images)" for change in by_shared]
            return f"Merged from clusters {', '.join(parents)} {before}"
        case _:
            origins = [f"{part.cluster} ({share(part.share)})" for part in first.came_from]
            return f"New. Its images were in clusters {', '.join(origins)} {before}"
