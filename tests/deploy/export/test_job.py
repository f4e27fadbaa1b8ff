"""The images with which an exported file is compared."""

from types import SimpleNamespace

import pytest

from deploy.export.job import ExportJob
from engine.config.runs import TrainedRun
from engine.errors import UserError
from tests.refusals import refuses


@pytest.mark.parametrize(
    ("precision", "ends"), [("fp16", ", or, without the data, input=<images>"), ("int8", "moved")]
)
def test_without_the_data_other_images_are_suggested_unless_some_are_for_calibration(
    monkeypatch, precision, ends
):
    def missing(config):
        raise UserError("data.root=/old: no such folder; check the path")

    monkeypatch.setattr("engine.config.runs.build_source", missing)
    run = TrainedRun.__new__(TrainedRun)
    run.config = SimpleNamespace(data=SimpleNamespace(split="val"))
    job = ExportJob.__new__(ExportJob)
    job.run, job.module = run, None
    job.options = SimpleNamespace(input=None, images=2, precision=precision)
    said = refuses(job.comparison_samples, r"pass data\.root=<folder> if the data have moved")
    assert said.endswith(ends)
