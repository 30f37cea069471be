"""The whole page: one HTML file that fetches nothing and runs nothing but its own script."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from deepcluster_core.report.cards import Gallery, gallery_html
from deepcluster_core.report.curves import STAGES, cost_charts, learning_charts, sizes_chart
from deepcluster_core.report.evaluations import Evaluation, evaluations_html
from deepcluster_core.report.html import escaped, known, number, table
from deepcluster_core.report.words import Remark, remarks
from deepcluster_core.text import duration

FORMAT = 1
"""Raised when the same inputs would give another page."""
HEAD_BYTES = 2048
INPUTS = re.compile(rb'<meta name="deepcluster-inputs" content="([0-9a-f]{64})">')
TONES = {"good": "✓", "plain": "→", "bad": "!"}


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. Text is text: it is escaped here."""

    name: str
    """Of the run."""
    sentence: str
    """What the run is."""
    notes: Sequence[str]
    """What is missing, or not to be trusted."""
    rows: Sequence[Mapping[str, Any]]
    """Metrics of the epochs that are scored, in order, with `epoch` and `score_s` beside them."""
    sizes: Sequence[int]
    """Images in each cluster of the gallery's epoch."""
    gallery: Gallery | None
    evaluations: Sequence[Evaluation]
    config: str
    """YAML."""
    provenance: Mapping[str, str]
    inputs: str
    """Digest of all that the page is made from, 64 hexadecimal digits."""


def render(report: Report) -> bytes:
    """Return the page, in UTF-8. The same report gives the same bytes."""
    style, script = _part("style.css"), _part("script.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    sections = {
        "summary": ("What to look at", _summary(report)),
        "curves": ("Curves", _curves(report)),
        "clusters": ("Clusters", _clusters(report)),
        "evaluations": ("Evaluations", evaluations_html(report.evaluations)),
        "configuration": ("Configuration", _configuration(report)),
    }
    there = {name: (title, body) for name, (title, body) in sections.items() if body}
    menu = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in there.items())
    bodies = "".join(
        f'<section id="{name}"><h2>{title}</h2>{body}</section>'
        for name, (title, body) in there.items()
    )
    name = escaped(report.name)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="deepcluster-inputs" content="{report.inputs}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{name} – DeepCluster</title>'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f"<header><p>DeepCluster run</p><h1>{name}</h1><p>{escaped(report.sentence)}</p>"
        f'{_figures(report)}</header><nav aria-label="Sections">{menu}</nav>'
        f"<main>{bodies}</main>{_footer(report)}<script>{script}</script></body></html>\n"
    )
    return page.encode()


def inputs_of(path: Path) -> str | None:
    """Return the digest of what the page at `path` was made from; None if there is no such page."""
    try:
        with path.open("rb") as file:
            found = INPUTS.search(file.read(HEAD_BYTES))
    except (FileNotFoundError, PermissionError):
        return None
    return found[1].decode() if found else None


@cache
def _part(name: str) -> str:
    return (resources.files("deepcluster_core.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a content security policy knows an inline part of the page by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _figures(report: Report) -> str:
    """Return the numbers that people ask for first."""
    if not report.rows:
        return ""
    last = report.rows[-1]
    spent_s = sum(
        value for row in report.rows for name in STAGES if known(value := row.get(f"{name}_s"))
    )
    told = {
        "images": number(last.get("images")),
        "clusters": number(last.get("k")),
        "epochs": number(len(report.rows)),
        "loss": number(last.get("loss")),
        "NMI with the clusters before": number(last.get("nmi_previous")),
        "NMI with the true labels": number(last.get("nmi_labels")),
        "computing": duration(spent_s),
    }
    shown = (f"<div><dt>{name}</dt><dd>{escaped(value)}</dd></div>" for name, value in told.items())
    return f'<dl class="figures">{"".join(shown)}</dl>'


def _summary(report: Report) -> str:
    notes = [Remark("bad", "Not complete", note) for note in report.notes]
    found = [*notes, *remarks(report.rows)] or [Remark("plain", "Nothing yet", "No epoch is done.")]
    shown = "".join(
        f'<p class="remark {remark.tone}"><span aria-hidden="true">{TONES[remark.tone]}</span>'
        f"<b>{escaped(remark.title)}.</b> {escaped(remark.text)}</p>"
        for remark in found
    )
    return f'<div class="remarks">{shown}</div>'


def _curves(report: Report) -> str:
    if not report.rows:
        return ""
    charts = learning_charts(report.rows)
    if report.gallery is not None and report.sizes:
        charts.append(sizes_chart(report.sizes, report.gallery.epoch))
    charts += cost_charts(report.rows)
    columns = [*dict.fromkeys(["epoch", *(name for row in report.rows for name in row)])]
    numbers = table(
        columns, ([row.get(name) for name in columns] for row in report.rows), name="All metrics"
    )
    return (
        f'<div class="charts">{"".join(charts)}</div>'
        f"<details><summary>All metrics as a table</summary>{numbers}</details>"
    )


def _clusters(report: Report) -> str:
    gallery = report.gallery
    if gallery is None or not gallery.shown:
        return ""
    how_many = (
        f"All {gallery.shown:,} clusters"
        if gallery.shown == gallery.populated
        else f"{gallery.shown:,} of the {gallery.populated:,} clusters"
    )
    marked = (
        " A frame marks images whose true label is not the one that most of their cluster have; "
        "training knows no labels."
        if any(cluster.classes for cluster in gallery.clusters.values())
        else ""
    )
    return (
        f"<p>{how_many} that have images, as of epoch {gallery.epoch}: on the left the images "
        f"nearest to the centroid, on the right the farthest, below them their distances.{marked}"
        f"</p>"
        f'<div class="tools" hidden></div>'
        f'<div id="sorted" class="cards" hidden></div>{gallery_html(gallery)}'
    )


def _configuration(report: Report) -> str:
    return (
        f"<details><summary>config.yaml</summary>"
        f'<pre class="scroll" tabindex="0">{escaped(report.config)}</pre></details>'
    )


def _footer(report: Report) -> str:
    told = (
        f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>"
        for name, value in report.provenance.items()
    )
    return f"<footer><h2>Made by</h2><dl>{''.join(told)}</dl></footer>"
