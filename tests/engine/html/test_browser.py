"""Pages load in a browser without errors and without the network."""

import numpy as np

from engine.contracts import Finding
from engine.html.charts import bar_chart, heat_map, histogram, line_chart, scatter_chart
from engine.html.page import Page
from tests.engine.html.browser import load

NAMES = ["<b>sky</b>", 'a "quoted" & name', "道路 größe"]


def _page():
    page = Page("Report of <run>", "a & b").section("Charts")
    page.chart(line_chart({name: [(0, 1), (1, 2)] for name in NAMES}, title="<t>", x_label="x", y_label="y"))
    page.chart(scatter_chart({NAMES[0]: [(1, 2), (4, 8)]}, title="s", x_label="x", y_label="y", log=True))
    page.chart(histogram([1, 2, 3], title="h", x_label="x", bins=3))
    page.chart(bar_chart(NAMES, {"a": [1, 2, 3]}, title="b"))
    page.chart(heat_map(np.eye(3), title="m", row_labels=NAMES, column_labels=NAMES))
    page.section("Rest").table(["name"], [[name] for name in NAMES]).code("<script>boom()</script>")
    page.images([(np.zeros((4, 6, 3), np.uint8), name) for name in NAMES])
    return page.findings(
        [Finding(code="c", severity="error", title=NAMES[0], count=1, examples=(), why="w", remedy="r")]
    )


def test_a_page_loads_without_errors_or_requests_and_every_chart_has_data(tmp_path):
    _page().write(tmp_path / "report.html")
    loaded = load(tmp_path / "report.html", tmp_path)
    assert loaded.console == []
    assert loaded.requests == []
    assert loaded.charts == [6, 2, 3, 3, 9]
    assert "&lt;b&gt;sky&lt;/b&gt;" in loaded.text
    assert "<b>sky" not in loaded.text


def test_the_check_itself_sees_errors_requests_and_empty_charts(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<svg class="chart" data-points="0"></svg><script>nope()</script><img src="http://example.com/x.png">'
    )
    loaded = load(bad, tmp_path)
    assert "nope is not defined" in loaded.console[0]
    assert loaded.requests == ["http://example.com/x.png"]
    assert loaded.charts == [0]
