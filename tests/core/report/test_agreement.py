"""Pictures are looked at by their lines: pixels change with every version of matplotlib."""

import io
import math
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from deepcluster_core.report.agreement import draw_agreement, draw_agreements

RUN = pd.DataFrame(
    {
        "k": 10,
        "epoch": [0, 1, 2],
        "nmi_labels": [0.3, 0.4, 0.5],
        "nmi_previous": [math.nan, 0.6, 0.7],
    }
)


@pytest.fixture
def drawn() -> Iterator[list[Figure]]:
    """Collect every figure that is saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def collect(figure: Figure, *arguments: object, **named: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **named)  # pyright: ignore[reportArgumentType]

    with patch.object(Figure, "savefig", collect):
        yield figures


def points(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]
        for line in axes.get_lines()
    }


def test_draw_agreement__both_curves_where_they_are_known(drawn: list[Figure]) -> None:
    file = io.BytesIO()
    draw_agreement(RUN, file)

    labels, previous = drawn[0].axes
    assert list(points(labels).values()) == [[(0, 0.3), (1, 0.4), (2, 0.5)]]
    assert list(points(previous).values()) == [[(1, 0.6), (2, 0.7)]]
    assert Image.open(file).format == "PNG"


def test_draw_agreement__says_what_is_not_known(drawn: list[Figure]) -> None:
    draw_agreement(RUN[:1].assign(nmi_labels=math.nan), io.BytesIO())

    assert [[text.get_text() for text in axes.texts] for axes in drawn[0].axes] == [
        ["not known"]
    ] * 2


def test_draw_agreements__a_line_for_each_k_and_the_last_epochs_against_k(
    drawn: list[Figure],
) -> None:
    larger = RUN.assign(k=1000, nmi_labels=RUN["nmi_labels"] + 0.1)
    draw_agreements(pd.concat([RUN, larger]), io.BytesIO())

    labels, previous, by_k = drawn[0].axes
    assert list(points(labels)) == list(points(previous)) == ["k = 10", "k = 1,000"]
    assert points(labels)["k = 1,000"] == [(0, 0.4), (1, 0.5), (2, 0.6)]
    assert points(by_k) == {
        "true labels": [(10, 0.5), (1000, 0.6)],
        "clusters before": [(10, 0.7), (1000, 0.7)],
    }
    assert by_k.get_xscale() == "log"


def test_draw_agreement__same_table_same_bytes() -> None:
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        draw_agreement(RUN, file)
    assert files[0].getvalue() == files[1].getvalue()
