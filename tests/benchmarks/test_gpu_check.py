"""The GPU check, run on the CPU at its small size; what fails is reported and changes the exit status."""

import json
import time

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu.session import CheckFailed, OutOfTime, Session


def session(folder, **options):
    return Session(device="cpu", folder=folder, **{"minutes": 8.0, "steps": 2, **options})


@pytest.mark.weekly
@pytest.mark.timeout(900)
def test_every_check_runs_on_the_cpu_and_passes(tmp_path, capsys):
    status = gpu_check.main(["--device", "cpu", "--out", str(tmp_path / "result"), "--minutes", "20"])
    result = json.loads((tmp_path / "result.json").read_text())
    findings = result["findings"]
    assert status == 0, findings
    assert {finding["check"] for finding in findings} == set(gpu_check.CHECKS)
    by_case = {finding["case"]: finding for finding in findings}
    assert by_case["2 + 2 steps against 4"]["result"] == "passed"
    assert by_case["fp16"]["value"] == "fp16 is for CUDA"
    assert by_case["mIoU, cpu against the CPU"]["result"] == "passed"
    assert by_case["2 processes, Gloo, first loss"]["result"] == "passed"
    assert by_case["torchvision's loop and network"]["value"].endswith("1.00 times torchvision's")
    assert by_case["CUDAExecutionProvider"]["result"] == "skipped"
    assert not [finding for finding in findings if finding["result"] == "failed"]
    assert "torch" in json.dumps(result["environment"])
    text = (tmp_path / "result.md").read_text()
    assert capsys.readouterr().out.strip().endswith(text.strip())
    assert text.count("\n|") == len(findings) + 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu_check.main([]) == 2
    assert "no CUDA GPU is available" in capsys.readouterr().err


def test_the_folder_of_the_result_is_made_before_the_checks(tmp_path, monkeypatch):
    out, seen = tmp_path / "new" / "result", []
    monkeypatch.setattr(gpu_check, "CHECKS", {"one": lambda session: seen.append(out.parent.is_dir())})
    assert gpu_check.main(["--device", "cpu", "--out", str(out)]) == 0
    assert seen == [True]
    assert json.loads((tmp_path / "new/result.json").read_text())["findings"] == []


@pytest.mark.parametrize(
    ("ours", "theirs", "result"),
    [(1.0009, 1.0, "passed"), (1.0011, 1.0, "failed"), (-1.0, 1.0, "failed"), (float("nan"), 1.0, "failed")],
)
def test_figures_pass_if_they_are_near_each_other(tmp_path, ours, theirs, result):
    one = session(tmp_path)
    one.compare("precision", "loss", ours, theirs, within=1e-3)
    assert [finding.result for finding in one.findings] == [result]


@pytest.mark.weekly
def test_weights_that_differ_after_resuming_fail(tmp_path, monkeypatch):
    """The two runs have different seeds, so no weights are the same."""
    seeds = iter("123")
    train = Session.train
    monkeypatch.setattr(Session, "train", lambda self, *args: train(self, *args, f"seed={next(seeds)}"))
    one = session(tmp_path)
    gpu_check.run(one, "resume")
    (finding,) = one.findings
    assert finding.result == "failed"
    same, _, count, *_ = finding.value.split()
    assert int(same) < int(count) / 2


def test_a_failing_check_is_a_finding_and_the_next_one_runs(tmp_path, monkeypatch):
    def broken(session):
        session.note("resume", "first", "passed", "fine")
        raise RuntimeError("surprise")

    def failing(session):
        raise CheckFailed("status 1: error: no such key")

    checks = {"precision": failing, "resume": broken, "latency": lambda session: session.seconds_left()}
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    one = session(tmp_path)
    for name in checks:
        gpu_check.run(one, name)
    assert [(each.check, each.case, each.result, each.value) for each in one.findings] == [
        ("precision", "all", "failed", "status 1: error: no such key"),
        ("resume", "first", "passed", "fine"),
        ("resume", "the rest", "failed", "RuntimeError: surprise"),
    ]


def test_what_there_is_no_time_for_is_skipped(tmp_path):
    one = session(tmp_path, minutes=0.05, started=time.monotonic() - 4)
    gpu_check.run(one, "precision")
    assert [(each.result, each.value) for each in one.findings] == [
        ("skipped", "the 0.05 minutes are over; set --minutes")
    ]
    short = session(tmp_path, minutes=0.01)
    with pytest.raises(OutOfTime, match="ended during -c"):
        short.command("-c", "import time; time.sleep(60)")


def test_a_command_that_fails_is_quoted_by_its_last_line(tmp_path):
    with pytest.raises(CheckFailed, match="status 3: error: the reason"):
        session(tmp_path).command("-c", "import sys; print('x\\nerror: the reason'); sys.exit(3)")
