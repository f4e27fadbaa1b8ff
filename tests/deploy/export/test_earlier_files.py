"""An export into the folder of an earlier one: what is left of that is named."""

import os
from types import SimpleNamespace

from deploy.export.export_run import _write, files_before
from engine.errors import UserError
from tests.refusals import refuses


def test_only_older_files_of_an_export_are_left_over(tmp_path):
    for name, seconds in (("model.onnx", 1), ("report_card.md", 1), ("notes.txt", 1), ("model.xml", 3)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert files_before(tmp_path, 2 * 10**9) == ["model.onnx", "report_card.md"]


def test_the_description_of_an_earlier_file_goes_when_that_file_is_replaced(tmp_path):
    """So an export that is stopped before its checks does not look like one that has passed them."""
    (tmp_path / "model.onnx").write_text("earlier")
    (tmp_path / "preprocess.json").write_text("{}")

    def export(module, image, path):
        if module == "fails":
            raise UserError("cannot be converted")
        path.write_text("new")

    options = SimpleNamespace(precision="fp32", file_format="onnx")
    job = SimpleNamespace(options=options, folder=tmp_path, log=print, export=export, module="fails")
    sample = SimpleNamespace(input=None)
    refuses(lambda: _write(job, sample), "cannot be converted")
    assert (tmp_path / "preprocess.json").exists()
    job.module = "works"
    assert _write(job, sample) == tmp_path / "model.onnx"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]
