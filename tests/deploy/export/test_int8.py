"""What an 8-bit file is checked for beside its metric."""

import time
from functools import partial
from types import SimpleNamespace

import pytest

from deploy.export import int8
from deploy.export.comparison import Comparison
from deploy.export.int8 import check_limits, summary
from deploy.options import Budget
from engine.errors import UserError
from engine.io import progress
from tests.deploy.quantize.test_report_card import card_of
from tests.refusals import refuses

COMPARISON = Comparison(
    num_images=2, max_difference=0.3, largest=4.0, agreement=0.9, exact=None, batches=(1,)
)


def test_only_limits_that_are_set_apply():
    check = partial(check_limits, COMPARISON, metric="miou")
    check(Budget())
    check(Budget(max_difference=0.3, agreement=0.9))
    refuses(lambda: check(Budget(agreement=0.95)), "0.900000", "budget.agreement=0.95")
    refuses(lambda: check(Budget(max_difference=0.2)), "0.3", "budget.max_difference=0.2")


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


def job_in(folder):
    """A job with an earlier export in its folder."""
    (folder / "model.xml").write_text("earlier")
    (folder / "model.bin").write_text("earlier weights")
    (folder / "preprocess.json").write_text("{}")
    calibration = SimpleNamespace(images=1, split="train")
    return SimpleNamespace(
        options=SimpleNamespace(calibration=calibration),
        log=print,
        folder=folder,
        split_samples=lambda split, count: [SimpleNamespace(input=None)],
    )


def files(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def writes(content, error, *, rejects=False):
    """A stand-in for the quantization: writes a file, and fails."""

    def quantize(job, source, probed, path, images):
        path.with_suffix(".bin").write_text(f"{content} weights")
        path.with_name(f"{path.name}.rejected" if rejects else path.name).write_text(content)
        raise error

    return quantize


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("an image is damaged")])
def test_a_file_that_was_only_tried_is_not_left_over(tmp_path, monkeypatch, error):
    job = job_in(tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(int8, "_to_quantize", lambda job, source, folder, image: source)
    monkeypatch.setattr(int8, "_quantize", writes("tried", error))
    with pytest.raises(type(error)):
        int8.write_int8(job, tmp_path / "float32/model.xml", [])
    assert files(tmp_path) == before


def test_a_rejected_file_is_kept_beside_an_earlier_one(tmp_path, monkeypatch):
    job = job_in(tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(int8, "_to_quantize", lambda job, source, folder, image: source)
    monkeypatch.setattr(int8, "_quantize", writes("bad", UserError("no layer"), rejects=True))
    refuses(lambda: int8.write_int8(job, tmp_path / "float32/model.xml", []), "no layer")
    rejected = {"model.xml.rejected": "bad", "model.bin.rejected": "bad weights"}
    assert files(tmp_path) == before | rejected
