import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from deepcluster_core.report.charts import (
    STEPS_AT_MOST,
    Chart,
    Line,
    line_chart,
    size_histogram,
    stacked_bars,
)

CHART = Chart("Loss <&>", "nats", [0, 1, 2, 3])


def drawn(figure: str) -> ET.Element:
    """Return the SVG, which must be well-formed."""
    found = re.search(r"<svg.*</svg>", figure)
    assert found
    return ET.fromstring(found[0])  # noqa: S314  our own


def path_of(svg: ET.Element, style: str) -> str:
    (path,) = svg.findall(f"./g[@class='{style}']/path")
    return path.attrib["d"]


def test_line_chart__a_higher_value_stands_higher_and_later_epochs_further_right() -> None:
    svg = drawn(line_chart(CHART, [Line("loss", [4.0, 2.0, 1.0, 0.5])]))

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
    svg = drawn(line_chart(CHART, [Line("nmi", [None, 0.5, math.nan, 0.7])]))

    assert "L" not in path_of(svg, "s0")
    assert len(svg.findall(".//circle")) == 2, "a point without neighbours shows as a dot alone"


def test_line_chart__many_epochs_have_no_dots_but_where_the_line_is_broken() -> None:
    values = [0.5] * 200 + [None, 0.6, None] + [0.5] * 200
    svg = drawn(line_chart(Chart("NMI", "", range(403)), [Line("nmi", values)]))

    (dot,) = svg.findall(".//circle")
    assert dot.attrib["cx"] == svg.attrib["data-at"].split(",")[201]


def test_line_chart__of_no_known_value_is_left_out() -> None:
    lines = [Line("moved", [None, math.nan, None, None]), Line("k", [9] * 4, reference=True)]

    assert line_chart(CHART, lines) == ""
    assert line_chart(Chart("Loss", "nats", []), [Line("loss", [])]) == ""


def test_line_chart__one_epoch_is_a_dot_and_a_reference_a_line() -> None:
    lines = [Line("loss", [4.1]), Line("ln k", [4.6], reference=True)]
    svg = drawn(line_chart(Chart("Loss", "nats", [0]), lines))

    assert len(svg.findall(".//circle")) == 1
    assert "H" in path_of(svg, "reference")


def test_line_chart__tells_its_values_without_script_and_to_who_cannot_see_it() -> None:
    figure = line_chart(CHART, [Line("loss", [4.0, 2.0, 1.0, None])])

    assert drawn(figure).attrib["aria-label"] == "Loss <&>, nats, epoch 0 to epoch 3: loss 4 to –"
    assert '<li class="when">epoch 3</li>' in figure
    assert 'data-texts="4|2|1|–"' in figure
    assert "Loss &lt;&amp;&gt;" in figure


def test_stacked_bars__layers_lie_on_each_other_and_add_up() -> None:
    layers = [Line("train", [4.0, 2.0]), Line("extract", [1.0, 2.0]), Line("score", [None, 1.0])]
    svg = drawn(stacked_bars(Chart("Time", "seconds", [0, 1]), layers))

    bars: list[list[tuple[float, float]]] = []
    for path in svg.findall("./path"):
        if "filled" in path.attrib["class"]:
            found = re.findall(r"M[\d.]+ ([\d.]+)h[\d.]+V([\d.]+)h", path.attrib["d"])
            bars.append([(float(base), float(tip)) for base, tip in found])
    train, extract, score = bars
    assert [base for base, _ in extract] == [tip for _, tip in train]
    assert [base for base, _ in score] == [extract[1][1]], "an unknown time is no bar"
    assert extract[0][1] == score[0][1], "5 s in both epochs"


def test_size_histogram__falls_and_of_many_clusters_draws_some() -> None:
    counts = [*range(10_000), *[0] * 50]
    figure = size_histogram(Chart("Sizes", "images", []), counts)
    svg = drawn(figure)

    (path,) = (path for path in svg.findall("./path") if path.attrib["class"] == "s0 filled")
    tips = [float(tip) for tip in re.findall(r"V([\d.]+)H", path.attrib["d"])]
    assert len(tips) == STEPS_AT_MOST
    assert tips == sorted(tips), "downwards on the page"
    assert "<b>9,999</b>" in figure


def test_size_histogram__of_one_cluster() -> None:
    assert drawn(size_histogram(Chart("Sizes", "images", []), [7])) is not None
