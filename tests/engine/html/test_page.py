"""A page contains its parts in order, as plain text."""

import base64
import re

import cv2
import numpy as np
import pytest

from engine.contracts import Finding
from engine.errors import UserError
from engine.html.charts import line_chart
from engine.html.page import Page


def test_all_texts_are_escaped():
    nasty = "<i> & \"x\" 'y'"
    page = Page(nasty, nasty).section(nasty, nasty).text(nasty).code(nasty)
    page.table([nasty], [[nasty]], nasty).images([(np.zeros((2, 2, 3), np.uint8), nasty)])
    finding = Finding(
        code="c", severity="note", title=nasty, count=1, examples=(nasty,), why=nasty, remedy=nasty
    )
    html = page.findings([finding]).html()
    assert "<i>" not in html
    assert html.count("&lt;i&gt;") >= 14


def test_tables_align_numbers_and_round_them():
    html = Page("t").table(["class", "IoU", "pixels"], [["sky", 0.123456, 12345], ["road", None, 7]]).html()
    assert re.findall(r"<td([^>]*)>([^<]*)</td>", html) == [
        ("", "sky"), (' class="number"', "0.1235"), (' class="number"', "12,345"),
        ("", "road"), (' class="number"', "–"), (' class="number"', "7"),
    ]  # fmt: skip


def test_texts_that_are_numbers_are_aligned_like_numbers():
    html = (
        Page("t")
        .table(["a", "b", "c"], [["12.30%", "1,234", "7 dogs"], ["1.00 ± 0.10%", "nan", "cat"]])
        .html()
    )
    assert re.findall(r"<td([^>]*)>([^<]*)</td>", html) == [
        (' class="number"', "12.30%"), (' class="number"', "1,234"), ("", "7 dogs"),
        (' class="number"', "1.00 ± 0.10%"), (' class="number"', "–"), ("", "cat"),
    ]  # fmt: skip


def test_sections_are_listed_and_linked():
    html = Page("t").section("First").text("a").section("Second").text("b").html()
    assert re.findall(r'<a href="#(s\d)">(\w+)</a>', html) == [("s1", "First"), ("s2", "Second")]
    assert re.findall(r'<h2 id="(s\d)">(\w+)</h2>', html) == [("s1", "First"), ("s2", "Second")]


def test_images_are_reduced_and_a_missing_file_is_shown_as_such(tmp_path):
    image = np.full((300, 400, 3), (200, 30, 30), np.uint8)
    html = Page("t").images([(image, "red"), (tmp_path / "none.png", "gone")], longest=100).html()
    (decoded,) = _images(html)
    assert decoded.shape == (75, 100, 3)
    assert np.abs(decoded.astype(int) - (200, 30, 30)).max() < 8
    assert "cannot be read" in html


def test_panels_side_by_side_are_larger():
    html = Page("t").images([(np.zeros((300, 1200, 3), np.uint8), "three panels")], longest=100).html()
    assert _images(html)[0].shape == (38, 150, 3)
    assert '<div class="images panels">' in html


def _images(html):
    return [
        cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
        for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", html)
    ]


def test_successive_charts_share_a_row():
    chart = line_chart({"": [(0, 1), (1, 2)]}, title="c", x_label="x", y_label="y")
    html = Page("t").chart(chart, "one").chart(chart).text("between").chart(chart).html()
    assert html.count('<div class="charts">') == 2
    assert html.count('class="chart" data-points="2"') == 3


def test_a_page_that_cannot_be_written_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        Page("t").write(tmp_path / "none" / "report.html")
