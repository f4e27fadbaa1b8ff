"""An evaluation into the folder of an earlier one: what is left of that is named."""

import os

from engine.report.run import of_earlier_evaluations


def test_only_older_results_are_left_over(tmp_path):
    (tmp_path / "predictions").mkdir()
    for name, seconds in (("predictions/summary.json", 1), ("suspicious.json", 3), ("notes.txt", 1)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert of_earlier_evaluations(tmp_path, 2 * 10**9) == ["predictions"]
    assert of_earlier_evaluations(tmp_path, 4 * 10**9) == ["predictions", "suspicious.json"]
