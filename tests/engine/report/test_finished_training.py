"""A report that cannot be written does not make a finished training look failed."""

from types import SimpleNamespace

import pytest

from engine.errors import UserError
from engine.report import finished_training
from engine.run.run_folder import RunFolder


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("report.html: cannot be written (No space left on device)"), "No space left on device"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_the_reason_is_printed_in_one_line(tmp_path, monkeypatch, capsys, error, reason):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(finished_training, "write_training_report", fails)
    trainer = SimpleNamespace(
        run=RunFolder(tmp_path),
        options=SimpleNamespace(batch=4),
        evaluator=None,
        data=SimpleNamespace(eval_set=None),
    )
    finished_training.write_report(
        trainer, None, None, samples=0, split="val", evaluated=True, differences=list
    )
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("report.html was not written (")
    assert reason in line
    assert line.endswith("the training itself is complete")
