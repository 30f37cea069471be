"""report.html: a single file that fetches nothing from the network and runs only its own script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from deepcluster_core.clustering.stability import Stability
from deepcluster_core.report.cluster_measures import ClassTable, ClusterMeasures
from deepcluster_core.report.environment import templates
from deepcluster_core.report.evaluations import Evaluation, Table, by_name
from deepcluster_core.report.gallery import Gallery
from deepcluster_core.report.image_map import ImageMap, map_data
from deepcluster_core.report.metric_charts import (
    cost_charts,
    metric_charts,
    seconds_of,
    single_values,
    sizes_chart,
)
from deepcluster_core.report.odd_images import OddImages
from deepcluster_core.report.picture_checks import picture_remarks
from deepcluster_core.report.words import Remark, remarks
from deepcluster_core.text import UNKNOWN, duration, number, share

SCRIPTS = ("map.js", "map_data.js", "script.js")
"""The parts of the page's only script."""


@dataclass(frozen=True)
class Setup:
    """The settings of a run, and its progress."""

    network: str
    image_size: int
    is_sobel_filtered: bool
    source: str
    images: int | None
    """Number of images; None if they are not counted yet."""
    k: int | str
    algorithm: str
    epochs: int
    scored: int
    """Number of finished epochs."""
    seed: int


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. All text is plain text, which the templates escape."""

    name: str
    """Name of the run."""
    setup: Setup
    notes: Sequence[str]
    """Notes about results that are missing or unreliable."""
    rows: Sequence[Mapping[str, Any]]
    """Metrics of the scored epochs, in order, together with `epoch` and `score_s`."""
    sizes: Sequence[int]
    """Number of images in each cluster of the gallery's epoch."""
    gallery: Gallery | None
    evaluations: Sequence[Evaluation]
    config: str
    """The recipe as YAML."""
    provenance: Mapping[str, str]
    inputs: str
    """Digest of everything that the page is made from, 64 hexadecimal digits."""
    stability: Stability | None = None
    """How long images stayed with their clusters; None if there is one epoch only."""
    image_map: ImageMap | None = None
    odd: OddImages | None = None
    """Outliers and near-duplicates; None if they were not looked for."""
    reading: Sequence[str] = ()
    """Sentences on how the images were read: what was skipped, pages, black and white."""
    run: str = "RUN"
    """The run as it is written in commands."""


def render(report: Report) -> bytes:
    """Return the page in UTF-8. Equal reports give equal bytes."""
    # The template leaves out a section without content, here that of an empty gallery.
    gallery = report.gallery
    if gallery is not None and gallery.num_shown == 0:
        gallery = None
    sizes = None
    if report.gallery is not None and report.sizes:
        sizes = sizes_chart(report.sizes, report.gallery.epoch)
    package = resources.files("deepcluster_core.report")
    page = templates().get_template("report.html.j2")
    return page.render(
        name=report.name,
        setup=report.setup,
        figures=_figures(report.rows),
        remarks=_remarks(report),
        charts=metric_charts(report.rows, sizes) if report.rows else [],
        single=_single(report.rows),
        cost=cost_charts(report.rows) if report.rows else [],
        cost_summary=f"Computing took {duration(seconds_of(report.rows))}",
        metrics=_metrics(report.rows),
        gallery=gallery,
        k=report.setup.k,
        run=report.run,
        classes_table=_class_table(gallery),
        measures_table=_measures_table(report.gallery),
        image_map=report.image_map,
        map_data=None if report.image_map is None else map_data(report.image_map),
        odd=report.odd,
        evaluations=by_name(report.evaluations),
        config=report.config,
        provenance=report.provenance,
        inputs=report.inputs,
        style=(package / "style.css").read_text(encoding="utf-8"),
        script="\n".join((package / name).read_text(encoding="utf-8") for name in SCRIPTS),
    ).encode()


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the key figures at the top of the page, as text by name."""
    if not rows:
        return {}
    last = rows[-1]
    figures = {
        "images": number(last.get("images")),
        "clusters": number(last.get("k")),
        "epochs": number(len(rows)),
        "loss": number(last.get("loss")),
        "NMI with the clusters before (0 unrelated, 1 the same)": number(last.get("nmi_previous")),
        "NMI with the true labels": number(last.get("nmi_labels")),
        "computing": duration(seconds_of(rows)),
    }
    # A dash would say nothing: without labels, or with one epoch, there is no such number.
    return {term: value for term, value in figures.items() if value != UNKNOWN}


def _remarks(report: Report) -> list[Remark]:
    # Missing results come first, since they may explain the other remarks.
    notes = [Remark("bad", "Not complete", note) for note in report.notes]
    gallery = report.gallery
    measures = None if gallery is None else gallery.measures
    pictures = [] if gallery is None else picture_remarks(gallery)
    reading = [Remark("plain", "How the images were read", line) for line in report.reading]
    found = [*notes, *pictures, *reading, *remarks(report.rows, report.stability, measures)]
    return found or [Remark("plain", "Nothing yet", "No epoch is done.")]


def _metrics(rows: Sequence[Mapping[str, Any]]) -> Table:
    # Rows of different versions have different columns. The dict keeps them in order.
    columns = {"epoch": None}
    for row in rows:
        columns.update(dict.fromkeys(row))
    cells = [[row.get(name) for name in columns] for row in rows]
    return Table("All metrics", [*columns], cells)


def _single(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return the metrics of a run's only epoch as a table; None if it has several."""
    if len(rows) != 1:
        return None
    headings = ["", "", f"epoch {rows[0]['epoch']}", "unit"]
    return Table("Metrics of the only epoch", headings, single_values(rows[0]))


def _class_table(gallery: Gallery | None) -> Table | None:
    found: ClassTable | None = None if gallery is None else gallery.classes_table
    if found is None:
        return None
    headings = ["cluster", *found.classes, *(["others"] if found.has_others else [])]
    rows = [[str(cluster), *counts] for cluster, counts in found.rows]
    return Table("Images of each cluster and class", headings, rows)


def _measures_table(gallery: Gallery | None) -> Table | None:
    measures: ClusterMeasures | None = None if gallery is None else gallery.measures
    if gallery is None or measures is None:
        return None
    headings = ["cluster", "images", "mean distance", "nearest other", "its distance", "stayed"]
    rows: list[list[object]] = []
    for cluster in sorted(gallery.clusters):
        stays = None if measures.stays_K is None else share(float(measures.stays_K[cluster]))
        twin = int(measures.twin_K[cluster])
        rows.append(
            [
                str(cluster),
                int(measures.size_K[cluster]),
                float(measures.spread_K[cluster]),
                str(twin) if twin >= 0 else None,
                float(measures.gap_K[cluster]),
                stays,
            ]
        )
    return Table("Measures of each cluster", headings, rows)
