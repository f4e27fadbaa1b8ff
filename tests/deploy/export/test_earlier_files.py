"""An export into the folder of an earlier one: what is left of that is named."""

import os

from deploy.export.export_run import files_before


def test_only_older_files_of_an_export_are_left_over(tmp_path):
    for name, seconds in (("model.onnx", 1), ("report_card.md", 1), ("notes.txt", 1), ("model.xml", 3)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert files_before(tmp_path, 2 * 10**9) == ["model.onnx", "report_card.md"]
