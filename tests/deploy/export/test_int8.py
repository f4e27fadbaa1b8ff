"""What an 8-bit file is checked for beside its metric."""

import time
from types import SimpleNamespace

from deploy.export import int8
from deploy.export.comparison import Comparison
from deploy.export.int8 import check_limits, summary
from deploy.options import Budget
from engine.io import progress
from tests.deploy.quantize.test_report_card import card_of
from tests.refusals import refuses

COMPARISON = Comparison(
    num_images=2, max_difference=0.3, largest=4.0, agreement=0.9, exact=None, batches=(1,)
)


def test_only_limits_that_are_set_apply():
    check_limits(COMPARISON, Budget())
    check_limits(COMPARISON, Budget(max_difference=0.3, agreement=0.9))
    refuses(lambda: check_limits(COMPARISON, Budget(agreement=0.95)), "0.900000", "budget.agreement=0.95")
    refuses(lambda: check_limits(COMPARISON, Budget(max_difference=0.2)), "0.3", "budget.max_difference=0.2")


def test_the_summary_names_the_limits():
    assert summary(card_of(), COMPARISON, Budget(agreement=0.8)).splitlines() == [
        "miou on val: 71.25 in float32, 70.00 in 8 bits (-1.25 points; at most 1.5 may be lost)",
        "8-bit file and PyTorch (budget.agreement=0.8):",
        *COMPARISON.text().splitlines(),
    ]
    assert "(no budget: 8 bits change" in summary(card_of(), COMPARISON, Budget())


def test_writing_the_second_float_file_is_announced(tmp_path, capsys, monkeypatch):
    """For a detector, it takes as long as the first: minutes on a slow machine."""
    monkeypatch.setattr(progress, "PATIENCE_S", 0.05)
    monkeypatch.setattr(progress, "_BESIDE_S", 0.0)  # earlier tests showed progress
    monkeypatch.setattr(int8, "raw_outputs", lambda module: SimpleNamespace(raw_names=("scores",)))

    def export(module, image, path, *, format):
        time.sleep(0.3)
        return path

    job = SimpleNamespace(module=None, options=SimpleNamespace(file_format="onnx"), log=print, export=export)
    int8._to_quantize(job, tmp_path / "a.onnx", tmp_path, None)
    assert capsys.readouterr().out.splitlines()[1].startswith("writing the second float32 file ... ")
