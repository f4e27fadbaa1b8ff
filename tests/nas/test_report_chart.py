"""The chart of a search whose networks hardly differ."""

import pytest

from nas.report import latency_chart


@pytest.mark.parametrize("points", [[(5.0, 0.7)], [(5.0, 0.7), (5.0001, 0.70001)]])
def test_points_that_hardly_differ_do_not_fill_the_chart(tmp_path, points):
    with latency_chart(tmp_path / "c.png", accuracy="miou") as axes:
        axes.plot(*zip(*points, strict=True), "o", label="networks")
    assert axes.get_xlim()[1] - axes.get_xlim()[0] >= 0.5 - 1e-9
    assert axes.get_ylim()[1] - axes.get_ylim()[0] >= 0.035 - 1e-9


def test_points_that_differ_keep_their_range(tmp_path):
    with latency_chart(tmp_path / "c.png", accuracy="miou") as axes:
        axes.plot([4.0, 8.0], [0.5, 0.7], label="networks")
    assert axes.get_xlim()[0] == pytest.approx(3.8)
