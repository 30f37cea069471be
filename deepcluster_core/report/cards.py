"""The gallery as HTML: a card for each cluster, with its images and what is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepcluster_core.clustering.changes import Change
from deepcluster_core.report.gallery import Cluster, Member
from deepcluster_core.report.html import data_uri, escaped, share
from deepcluster_core.report.thumbnails import MEDIA_TYPE, Thumbnails

SHARP_UP_TO = 48
"""Thumbnails up to this side, in pixels, have sharp pixels when enlarged, where they would else be
a blur."""


@dataclass(frozen=True)
class Gallery:
    """Everything that the gallery shows."""

    epoch: int
    groups: Mapping[str, Sequence[int]]
    """Ids of clusters, by heading."""
    clusters: Mapping[int, Cluster]
    thumbnails: Thumbnails
    paths: Mapping[int, str]
    """By image_id, of the images that are shown."""
    labels: Mapping[int, str]
    """Names of true labels, by their numbers."""
    populated: int
    """Clusters that have images, shown or not."""

    @property
    def shown(self) -> int:
        """How many clusters are shown."""
        return sum(len(group) for group in self.groups.values())


def gallery_html(gallery: Gallery) -> str:
    """Return the headings and the cards below them."""
    sharp = " sharp" if gallery.thumbnails.side <= SHARP_UP_TO else ""
    groups = "".join(
        f'<section class="group"><h3>{escaped(heading)}</h3><div class="cards{sharp}">'
        f"{''.join(_card(gallery, gallery.clusters[cluster]) for cluster in group)}</div></section>"
        for heading, group in gallery.groups.items()
    )
    return f"{_unreadable(gallery.thumbnails)}{groups}"


def _unreadable(thumbnails: Thumbnails) -> str:
    """Say why there are grey tiles, if there are."""
    if not thumbnails.failures:
        return ""
    reason = next(iter(thumbnails.failures.values()))
    count = len(thumbnails.failures)
    images = "1 image" if count == 1 else f"{count:,} images"
    return (
        f'<p class="remark bad">{images} could not be read any more; a grey tile stands for each. '
        f"{escaped(reason)}</p>"
    )


def _card(gallery: Gallery, cluster: Cluster) -> str:
    purity = "" if cluster.purity is None else f' data-purity="{cluster.purity:.4f}"'
    overlap = max((change.jaccard for change in cluster.changes), default=None)
    stable = "" if overlap is None else f' data-overlap="{overlap:.4f}"'
    words = "|".join(name for name, _ in _classes(gallery, cluster))
    images = "1 image" if cluster.size == 1 else f"{cluster.size:,} images"
    return (
        f'<article class="card" id="cluster-{cluster.cluster}" data-id="{cluster.cluster}" '
        f'data-size="{cluster.size}"{purity}{stable} data-words="{escaped(words.lower())}">'
        f"<h4>Cluster {cluster.cluster} <span>{images}</span></h4>"
        f"{_mixture(gallery, cluster)}{_history(gallery, cluster)}"
        f'<div class="tiles"><div class="near">{_tiles(gallery, cluster, cluster.nearest)}</div>'
        f'<div class="far">{_tiles(gallery, cluster, cluster.farthest)}</div></div>'
        f'<p class="ends"><span>nearest {_range(cluster.nearest)}</span>'
        f"<span>{_far_name(cluster)}</span></p></article>"
    )


def _classes(gallery: Gallery, cluster: Cluster) -> list[tuple[str, float]]:
    return [(gallery.labels.get(label, "?"), part) for label, part in cluster.classes]


def _mixture(gallery: Gallery, cluster: Cluster) -> str:
    """Return the purity, and a bar of the classes that the cluster is made of."""
    classes = _classes(gallery, cluster)
    if not classes:
        return ""
    told = " · ".join(f"<b>{escaped(name)}</b> {share(part)}" for name, part in classes)
    left, bars = 0.0, ""
    for place, (_, part) in enumerate(classes):
        bars += f'<rect class="s{place}" x="{100 * left:.1f}" width="{100 * part:.1f}" height="4"/>'
        left += part
    bar = f'<svg class="mix" viewBox="0 0 100 4" preserveAspectRatio="none">{bars}</svg>'
    return f'<p class="classes">{told}</p>{bar.replace("<svg", "<svg aria-hidden=true")}'


def _history(gallery: Gallery, cluster: Cluster) -> str:
    if not cluster.changes:
        return ""
    return f'<p class="change">{escaped(_became(cluster.changes, gallery.epoch - 1))}</p>'


def _became(changes: Sequence[Change], before: int) -> str:
    """Say what a cluster was in the epoch before."""
    first = changes[0]
    match first.kind:
        case "same" | "moved":
            how = "The same as" if first.kind == "same" else "Moved on from"
            return (
                f"{how} cluster {first.previous} of epoch {before}: {first.shared:,} of its "
                f"{first.previous_size:,} images came along (Jaccard {first.jaccard:.2f})"
            )
        case "split":
            return (
                f"Split off cluster {first.previous} of epoch {before}: {first.shared:,} of its "
                f"{first.previous_size:,} images"
            )
        case "merged":
            parents = ", ".join(
                f"{parent.previous} ({parent.shared:,} images)"
                for parent in sorted(changes, key=lambda change: -change.shared)
            )
            return f"Merged from clusters {parents} of epoch {before}"
        case _:
            parts = ", ".join(f"{part.cluster} ({share(part.share)})" for part in first.came_from)
            return f"New. Its images were in clusters {parts} of epoch {before}"


def _range(members: Sequence[Member]) -> str:
    near, far = f"{members[0].distance:.3f}", f"{members[-1].distance:.3f}"
    return near if near == far else f"{near} to {far}"


def _far_name(cluster: Cluster) -> str:
    if not cluster.farthest:
        return ""
    return f"farthest {cluster.farthest[-1].distance:.3f}"


def _tiles(gallery: Gallery, cluster: Cluster, members: Sequence[Member]) -> str:
    return "".join(_tile(gallery, cluster, member) for member in members)


def _tile(gallery: Gallery, cluster: Cluster, member: Member) -> str:
    """Return an image, marked if its true label is not the one that most of its cluster have."""
    path = gallery.paths.get(member.image_id, "")
    told = f"{path}\nimage {member.image_id}, distance {member.distance:.3f}"
    odd = ""
    if member.label >= 0:
        told += f", label {gallery.labels.get(member.label, '?')}"
        odd = ' class="odd"' if member.label != cluster.classes[0][0] else ""
    data = gallery.thumbnails.data.get(member.image_id)
    if data is None:
        return f'<i class="gone" role="img" title="{escaped(told)}"></i>'
    return (
        f'<img{odd} loading="lazy" decoding="async" alt="{escaped(path)}" title="{escaped(told)}" '
        f'src="{data_uri(data, MEDIA_TYPE)}">'
    )
