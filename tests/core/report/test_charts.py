import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from deepcluster_core.report.charts import (
    STEPS_AT_MOST,
    Caption,
    Chart,
    Series,
    line_chart,
    size_histogram,
    stacked_bars,
)
from deepcluster_core.report.environment import templates

LOSS = Caption("Loss <&>", "nats")
EPOCHS = [0, 1, 2, 3]


def figure_of(chart: Chart | None) -> str:
    assert chart is not None
    call = '{% from "chart.html.j2" import figure %}{{ figure(chart) }}'
    return templates().from_string(call).render(chart=chart)


def drawn(chart: Chart | None) -> ET.Element:
    """Return the SVG, which must be well-formed."""
    found = re.search(r"<svg.*</svg>", figure_of(chart), re.DOTALL)
    assert found
    return ET.fromstring(found[0])  # noqa: S314  our own


def path_of(svg: ET.Element, style: str) -> str:
    (path,) = svg.findall(f"./g[@class='{style}']/path")
    return path.attrib["d"]


def test_line_chart__a_higher_value_stands_higher_and_later_epochs_further_right() -> None:
    svg = drawn(line_chart(LOSS, EPOCHS, [Series("loss", [4.0, 2.0, 1.0, 0.5])]))

    points = [
        (float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path_of(svg, "s0"))
    ]
    assert all(x < later and y < below for (x, y), (later, below) in pairwise(points))
    # Half the value is half the height above zero, which is where the axis ends.
    floor = float(svg.attrib["data-floor"])
    assert [round((floor - y) / (floor - points[0][1]), 2) for _, y in points] == [
        1,
        0.5,
        0.25,
        0.12,
    ]


def test_line_chart__unknown_values_break_the_line() -> None:
    svg = drawn(line_chart(LOSS, EPOCHS, [Series("nmi", [None, 0.5, math.nan, 0.7])]))

    assert "L" not in path_of(svg, "s0")
    assert len(svg.findall(".//circle")) == 2, "a point without neighbours shows as a dot alone"


def test_line_chart__many_epochs_have_no_dots_but_where_the_line_is_broken() -> None:
    values = [0.5] * 200 + [None, 0.6, None] + [0.5] * 200
    svg = drawn(line_chart(Caption("NMI", ""), range(403), [Series("nmi", values)]))

    (dot,) = svg.findall(".//circle")
    assert dot.attrib["cx"] == svg.attrib["data-at"].split(",")[201]


def test_line_chart__of_no_known_value_is_left_out() -> None:
    lines = [Series("moved", [None, math.nan, None, None]), Series("k", [9] * 4, reference=True)]

    assert line_chart(LOSS, EPOCHS, lines) is None
    assert line_chart(Caption("Loss", "nats"), [], [Series("loss", [])]) is None


def test_line_chart__one_epoch_is_a_dot_and_a_reference_a_line() -> None:
    lines = [Series("loss", [4.1]), Series("ln k", [4.6], reference=True)]
    svg = drawn(line_chart(Caption("Loss", "nats"), [0], lines))

    assert len(svg.findall(".//circle")) == 1
    assert "H" in path_of(svg, "reference")


def test_line_chart__tells_its_values_without_script_and_to_who_cannot_see_it() -> None:
    chart = line_chart(LOSS, EPOCHS, [Series("loss", [4.0, 2.0, 1.0, None])])

    assert drawn(chart).attrib["aria-label"] == "Loss <&>, nats, epoch 0 to epoch 3: loss 4 to –"
    figure = figure_of(chart)
    assert '<li class="when">epoch 3</li>' in figure
    assert 'data-texts="4|2|1|–"' in figure
    assert "Loss &lt;&amp;&gt;" in figure


def test_stacked_bars__layers_lie_on_each_other_and_add_up() -> None:
    layers = [
        Series("train", [4.0, 2.0]),
        Series("extract", [1.0, 2.0]),
        Series("score", [None, 1.0]),
    ]
    svg = drawn(stacked_bars(Caption("Time", "seconds"), [0, 1], layers))

    bars: list[list[tuple[float, float]]] = []
    for style in ("s0", "s1", "s2"):
        path = path_of(svg, f"{style} filled")
        found = re.findall(r"M[\d.]+ ([\d.]+)h[\d.]+V([\d.]+)h", path)
        bars.append([(float(base), float(tip)) for base, tip in found])
    train, extract, score = bars
    assert [base for base, _ in extract] == [tip for _, tip in train]
    assert [base for base, _ in score] == [extract[1][1]], "an unknown time is no bar"
    assert extract[0][1] == score[0][1], "5 s in both epochs"


def test_size_histogram__falls_and_of_many_clusters_draws_some() -> None:
    counts = [*range(10_000), *[0] * 50]
    chart = size_histogram(Caption("Sizes", "images"), counts)

    tips = [float(tip) for tip in re.findall(r"V([\d.]+)H", path_of(drawn(chart), "s0 filled"))]
    assert len(tips) == STEPS_AT_MOST
    assert tips == sorted(tips), "downwards on the page"
    assert "<b>9,999</b>" in figure_of(chart)


def test_size_histogram__of_one_cluster() -> None:
    assert drawn(size_histogram(Caption("Sizes", "images"), [7])) is not None
