"""Remarks on a run's metrics: sentences on what an expert of the method would look at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepcluster_core.clustering.changes import Change
from deepcluster_core.clustering.stability import Stability
from deepcluster_core.health import CHANCE, Sign, signs
from deepcluster_core.report.cluster_measures import ClusterMeasures
from deepcluster_core.text import known, last_epochs, listed, number, share

Row = Mapping[str, Any]
"""Metrics of an epoch by the names of their columns, together with `epoch`."""

RECENT = 2
"""Number of last epochs in which a sign of trouble leads the page."""
TWINS, NAMED = 3, 4
"""Numbers of pairs of clusters, and of clusters, that a remark names."""

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
    clusters: tuple[int, ...] = ()
    """Clusters of the gallery that the remark names, for links to them."""


def remarks(
    rows: Sequence[Row],
    stability: Stability | None = None,
    measures: ClusterMeasures | None = None,
) -> list[Remark]:
    """Return remarks on the epochs so far, present signs of trouble first, past ones last.

    Args:
        rows: metrics of the scored epochs, in order. Without rows there are no remarks.
        stability: how long images stayed with their clusters, if that is known.
        measures: measures of the clusters that need no labels, if they are known.
    """
    if not rows:
        return []
    present, past = _troubles(rows)
    found = [
        *present,
        _loss(rows),
        _stability(rows),
        _stayed(stability),
        _agreement(rows),
        _labels(rows),
        _rank(rows),
        _sizes(rows[-1]),
        *_shape(measures),
        *past,
    ]
    return [remark for remark in found if remark is not None]


def _troubles(rows: Sequence[Row]) -> tuple[list[Remark], list[Remark]]:
    """Return a remark for each sign that epochs learn nothing: those of today, and those of before.

    A sign that occurs in several epochs is described as in the last of them. It is one of today if
    it occurs in one of the last `RECENT` epochs.
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

    present: list[Remark] = []
    past: list[Remark] = []
    recent = {row["epoch"] for row in rows[-RECENT:]}
    for name, sign in last.items():
        if recent.isdisjoint(epochs[name]):
            past.append(_past(sign, epochs[name]))
        else:
            present.append(_present(sign, epochs[name]))
    return present, past


def _present(sign: Sign, seen: Sequence[int]) -> Remark:
    where = f"epoch {seen[0]}" if len(seen) == 1 else f"{len(seen)} epochs, last {seen[-1]}"
    # `capitalize` would put the rest of the sentence into lower case.
    sentence = sign.sentence[:1].upper() + sign.sentence[1:]
    text = f"{sentence} ({where}). What helps: {sign.advice}"
    return Remark("bad", _title(sign), text)


def _past(sign: Sign, seen: Sequence[int]) -> Remark:
    names = listed([str(epoch) for epoch in seen])
    where = f"epoch {names}" if len(seen) == 1 else f"epochs {names}"
    text = f"Of {where} only, and no longer true: {sign.sentence}."
    if 0 in seen:
        text += " Epoch 0 clusters the features of the network as initialised."
    return Remark("plain", f"{_title(sign)}, in the past", text)


def _title(sign: Sign) -> str:
    return sign.name.replace("_", " ").capitalize()


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
    text = f"NMI {number(last)} (0: unrelated, 1: the same) between the clusters of epochs "
    text += f"{end - 1} and {end}"
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
            f"Two views of an image have the same nearest prototype for {share(value)} of the "
            f"images (epoch {epoch})."
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
    if begin == end == 0:
        text += ", that of the network as initialised"
    if begin < end:
        untrained = ", that of the network as initialised" if begin == 0 else ""
        text += f", {first:.1f} in epoch {begin}{untrained}"
    text += _participation(rows)
    return Remark("plain", "Rank of the features", f"{text}. {ABOUT_RANK}")


def _participation(rows: Sequence[Row]) -> str:
    """Return how the participation ratio has changed, as the end of a sentence."""
    ratios = _known(rows, "effective_rank")
    if len(ratios) < 2:
        return ""
    (begin, first), (_, last) = ratios[0], ratios[-1]
    verb = "fell" if last < first else "rose"
    return f"; the participation ratio {verb} from {first:.1f} in epoch {begin} to {last:.1f}"


def _shape(measures: ClusterMeasures | None) -> Iterator[Remark]:
    """Yield remarks on measures of clusters that need no labels."""
    if measures is None:
        return
    twins = measures.twins(TWINS)
    if twins:
        pairs = "; ".join(f"{first} and {second}" for first, second in twins)
        text = (
            f"An image lies {measures.spread:.2f} from its centroid on average, a centroid "
            f"{measures.gap:.2f} from the nearest other one (median). The nearest pairs: {pairs}. "
            f"If both of a pair show one thing, a smaller cluster.k joins them."
        )
        named = [cluster for pair in twins for cluster in pair]
        yield Remark("plain", "Tight or wide, near or far", text, tuple(named))
    loosest = measures.loosest(NAMED)
    if len(loosest) > 1:
        text = (
            f"The images of clusters {listed([str(one) for one in loosest])} lie farthest from "
            f"their centroids. If one of them shows many things, a larger cluster.k divides it."
        )
        yield Remark("plain", "The widest clusters", text, tuple(loosest))
    least = measures.least_stable(NAMED)
    if measures.stays_K is not None and least:
        lowest = share(float(measures.stays_K[least[0]]))
        text = (
            f"The images of clusters {listed([str(one) for one in least])} were with them in as "
            f"few as {lowest} of {last_epochs(measures.stayed_epochs)}. Do not build on these "
            f"clusters; more epochs may settle them."
        )
        yield Remark("plain", "The least stable clusters", text, tuple(least))


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


@dataclass(frozen=True)
class EarlierCluster:
    """A cluster of an earlier epoch, named in a sentence; the page links it to the map."""

    cluster: int
    epoch: int
    text: str


def cluster_history(changes: Sequence[Change], epoch: int) -> list[str | EarlierCluster]:
    """Return a sentence on the origin of a cluster in the epoch before, in parts.

    Args:
        changes: all changes from which the cluster results, at least one.
        epoch: the cluster's own epoch, not the one before.
    """
    first = changes[0]
    before = epoch - 1
    ending = f" of epoch {before}"
    shared = f"{first.shared:,} of its {first.previous_size:,} images"
    came_along = f"{shared} came along (Jaccard {first.jaccard:.2f})"
    if first.previous is None:
        origins = [(part.cluster, share(part.share)) for part in first.came_from]
        return ["New. Its images were in clusters ", *_several(origins, before), ending]
    parent = EarlierCluster(first.previous, before, f"cluster {first.previous}{ending}")
    match first.kind:
        case "same":
            return ["The same as ", parent, f": {came_along}"]
        case "moved":
            return ["Moved on from ", parent, f": {came_along}"]
        case "split":
            return ["Split off ", parent, f": {shared}"]
        case _:
            # The parent that gave most images is named first.
            by_shared = sorted(changes, key=lambda change: -change.shared)
            parents = [(change.previous or 0, f"{change.shared:,} images") for change in by_shared]
            return ["Merged from clusters ", *_several(parents, before), ending]


def _several(named: Sequence[tuple[int, str]], epoch: int) -> list[str | EarlierCluster]:
    """Return clusters with a remark each, as parts of a sentence."""
    parts: list[str | EarlierCluster] = []
    for cluster, remark in named:
        if parts:
            parts.append(", ")
        parts += [EarlierCluster(cluster, epoch, str(cluster)), f" ({remark})"]
    return parts
