"""The report page of a checked dataset loads in a browser, and each of its charts has data."""

import pytest

from doctor.check.results import write_results
from tests.doctor.check.datasets import MAKERS, checked
from tests.engine.html.browser import load

CHARTS = {
    "seg": [4, 7, 7],  # 2 classes in 2 splits; the sizes and the brightness of 7 images
    "det": [4, 7, 7, 8, 400],  # and the sizes of 8 boxes of train, and 20 x 20 cells
    "cls": [4, 10, 10],
}


@pytest.mark.slow
@pytest.mark.parametrize("task", MAKERS)
def test_the_page_loads_without_errors_or_requests_and_every_chart_has_data(task, tmp_path):
    result = checked(task, MAKERS[task][0](tmp_path / "data"))
    write_results(result, tmp_path, name="<b>my data</b>", arguments=["task=x"])
    loaded = load(tmp_path / "report.html", tmp_path)
    assert loaded.console == []
    assert loaded.requests == []
    assert loaded.charts == CHARTS[task]
    assert "&lt;b&gt;my data&lt;/b&gt;" in loaded.text
    assert "python tools/train.py task=x" in loaded.text
