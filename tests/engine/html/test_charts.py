"""Charts show their values at the right places, and any text."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from engine.html.axes import Frame, Scale, number, shorten
from engine.html.charts import bar_chart, heat_map, histogram, line_chart, scatter_chart

NASTY = "<b> & \"q\" 'a' 道路"
SVG = "{http://www.w3.org/2000/svg}"


def _parse(svg):
    root = ET.fromstring(svg)
    assert root.get("class") == "chart"
    return root, int(root.get("data-points"))


@pytest.mark.parametrize(
    ("values", "ends", "ticks"),
    [
        ([0, 1], (0, 1), [0, 0.5, 1]),
        ([0.02, 2.05], (0, 2.5), [0, 1, 2]),
        ([3, 97], (0, 100), [0, 50, 100]),
        ([-8, 7], (-10, 10), [-10, -5, 0, 5, 10]),
        ([5, 5], (2, 8), [2, 4, 6, 8]),
        ([0, 0], (0, 1), [0, 0.5, 1]),
        ([], (0, 1), [0, 0.5, 1]),
        ([math.nan, math.inf, 1, 2], (1, 2), [1, 1.5, 2]),
    ],
)
def test_scales_end_at_round_numbers_around_the_finite_values(values, ends, ticks):
    scale = Scale.around(values)
    assert (scale.low, scale.high) == pytest.approx(ends)
    assert scale.ticks() == pytest.approx(ticks)


def test_a_logarithmic_scale_has_powers_of_two():
    scale = Scale.around([0, 3, 60], log=True)
    assert (scale.low, scale.high) == (2, 64)
    assert scale.ticks() == [2, 4, 8, 16, 32, 64]
    assert scale.at(16) == pytest.approx(3 / 5)


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.5, 1234.56, 12345, 3_400_000, 1e-5, math.nan)] == [
        "0", "0.5", "1235", "12.35k", "3.4M", "1e-05", "–",
    ]  # fmt: skip
    assert number(95.29, 3) == "95.3"


def test_texts_are_cut_to_a_width():
    assert shorten("road", 100) == "road"
    assert shorten("a very long class name", 61).endswith("…")
    assert len(shorten("道" * 30, 61)) < len(shorten("x" * 30, 61))


def test_a_title_that_is_too_long_is_cut_before_the_edge():
    """Titles are bold and larger than other texts: 57 letters do not fit, as a browser showed; 39 do."""
    for title, shown in (("x" * 57, "…"), ("x" * 39, "x")):
        assert _parse(bar_chart(["a"], {"": [1]}, title=title))[0].find(f"{SVG}text").text.endswith(shown)


def test_a_line_goes_through_its_points():
    frame = Frame(Scale(0, 10), Scale(0, 100), left=30, top=20, width=200, height=100)
    assert frame.point(5, 25) == (130, 95)
    root, points = _parse(
        line_chart({"a": [(0, 0), (5, 50), (10, math.nan), (10, 100)]}, title="t", x_label="x", y_label="y")
    )
    assert points == 3
    places = [tuple(map(float, p.split(","))) for p in root.find(f"{SVG}polyline").get("points").split()]
    assert len(places) == 3
    middle = tuple((places[0][axis] + places[2][axis]) / 2 for axis in (0, 1))
    assert places[1] == pytest.approx(middle, abs=0.1)
    assert places[0][1] > places[2][1]  # larger values are higher up


def test_a_long_line_keeps_its_extremes():
    values = [(float(i), 1.0) for i in range(10_000)]
    values[1234], values[7777] = (1234.0, 9.0), (7777.0, -5.0)
    root, points = _parse(line_chart({"": values}, title="t", x_label="x", y_label="y"))
    assert points <= 400
    heights = [float(p.split(",")[1]) for p in root.find(f"{SVG}polyline").get("points").split()]
    assert len(set(heights)) == 3


def test_marks_and_guides_are_drawn_but_not_counted():
    svg = line_chart(
        {"F1": [(0, 0.2), (1, 0.4)]},
        title="t", x_label="x", y_label="y", y_range=(0, 1),
        guides={"ideal": [(0, 0), (1, 1)]}, marks=[(1, 0.4, "chosen")],
    )  # fmt: skip
    root, points = _parse(svg)
    assert points == 2
    assert "dashed" in root.findall(f"{SVG}polyline")[1].get("class")
    assert {"ideal", "chosen"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_bars_are_as_long_as_their_values():
    root, points = _parse(bar_chart(["a", NASTY, "c"], {"IoU": [10, 20, math.nan]}, title=NASTY, unit="%"))
    assert points == 2
    widths = [float(bar.get("width")) for bar in root.findall(f"{SVG}rect") if bar.get("height") == "11.0"]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
    assert {"10%", "20%", NASTY} <= {text.text for text in root.iter(f"{SVG}text")}


def test_bars_need_one_value_per_label():
    with pytest.raises(ValueError, match="one value per label"):
        bar_chart(["a", "b"], {"x": [1]}, title="t")


def test_a_histogram_counts_values_per_bin():
    root, points = _parse(histogram([0, 0.5, 1, 3.5, 4, math.nan], title="t", x_label="x", bins=4))
    assert points == 5
    tips = [title.text for title in root.iter(f"{SVG}title")]
    assert [int(tip.rpartition(": ")[2]) for tip in tips] == [2, 1, 0, 2]


def test_a_scatter_chart_leaves_out_what_it_cannot_show_and_thins_many_points():
    points = [(1, 1), (2, 4), (0, 3), (math.nan, 1)]
    assert _parse(scatter_chart(points, title="t", x_label="x", y_label="y"))[1] == 3
    assert _parse(scatter_chart(points, title="t", x_label="x", y_label="y", log=True))[1] == 2
    many = [(float(i), float(i)) for i in range(10_000)]
    assert _parse(scatter_chart({"a": many}, title="t", x_label="x", y_label="y"))[1] == 2500


def test_a_heat_map_has_a_cell_per_value_and_writes_it():
    matrix = np.array([[50, 0], [math.nan, 25.25]])
    root, points = _parse(heat_map(matrix, title="t", row_labels=["a", NASTY], column_labels=["a", NASTY]))
    assert points == 3
    cells = [cell for cell in root.findall(f"{SVG}rect") if cell.get("class") == "cell"]
    shares = [float(cell.get("fill-opacity")) for cell in cells]
    assert shares[0] > shares[2] > shares[1]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "50" in texts
    assert "25" in texts


@pytest.mark.parametrize(
    "svg",
    [
        line_chart({}, title="t", x_label="x", y_label="y"),
        scatter_chart([], title="t", x_label="x", y_label="y"),
        histogram([], title="t", x_label="x"),
        bar_chart([], {"": []}, title="t"),
        heat_map(np.zeros((0, 0)), title="t"),
    ],
)
def test_charts_without_values_say_so(svg):
    assert _parse(svg)[1] == 0
    assert "no values" in svg
    assert not re.search("nan|inf", svg)
