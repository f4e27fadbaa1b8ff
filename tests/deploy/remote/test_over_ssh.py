"""tools/benchmark.py with device=ssh://..., with a real server on the loopback; a search on its table."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.latency_table.table import LatencyTable
from deploy.remote.device import PREFIX
from tests.deploy.latency_table.steady import steady
from tests.deploy.remote.sshd import server
from tests.tools.commands import ROOT, run
from tests.tools.test_serve import TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = ["data.size=48", "data.workers=0", "trainer.batch=2", "trainer.tensorboard=false", "samples=0",
         "data.source.num_train=8", "data.source.num_val=2", "data.source.num_test=1", "trainer.steps=2",
         "trainer.device=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained run of three blocks."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("work")
    (folder / "tiny.yaml").write_text(TINY)
    run("train", "task=cls", "backbone=tiny.yaml", *SMALL, "run=tiny", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    with server(tmp_path_factory.mktemp("sshd")) as (address, programs):
        yield address, programs


@pytest.fixture
def device(ssh, monkeypatch):
    """The words that name the server."""
    address, programs = ssh
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return [f"device={address}", f"remote.python={sys.executable}"]


def test_a_search_runs_on_the_table_that_a_device_sends(folder, device):
    """The times of a busy machine prove nothing: their error is not checked, and the search uses steady ones,
    with which one step saves at least 5%."""
    table = ["table=latency", "run=tiny", "out=pi.json", "shares=[1,0.5]", *device]
    printed = run("benchmark", *table, cwd=folder)
    measured = LatencyTable.load(folder / "pi.json")
    assert measured.about["device"] == device[0].removeprefix("device=")
    assert (measured.about["runtime"], measured.about["size"]) == ("onnx", [48, 48])
    assert len(measured.about["network_ms"]) == 2
    assert re.search(r"copying \d+ models \(\d+ MB\) to ssh://", printed)
    assert re.search(r"whole network on the device: \S+ ms \([+-][\d.]+%\)", printed)
    assert measured.about["sum_ms"] > 0
    steady(measured).save(folder / "steady.json")
    options = ["method.steps=1", "method.delta=0.05", "method.widths=0", "out=adapted", "device=cpu"]
    run("search", "run=tiny", "latency=steady.json", "measure=false", "budget=0.95", *options, cwd=folder)
    rows = [json.loads(line) for line in (folder / "adapted/history.jsonl").read_text().splitlines()]
    latencies = [row["latency_ms"] for row in rows if row["kind"] in ("seed", "step")]
    assert latencies[-1] <= 0.95 * latencies[0]


def test_a_run_is_measured_on_a_device_as_it_is_here(folder, device):
    short = ["run=tiny", "measure.warmup=0", "measure.least=2", "measure.most=2"]
    run("benchmark", *short, *device, "out=there", cwd=folder)
    run("benchmark", *short, "runtime=onnx", "out=here", cwd=folder)
    (there,), (here,) = (
        json.loads((folder / name / "results.json").read_text()) for name in ("there", "here")
    )
    assert set(there) == set(here)
    assert set(here["machine"]) <= set(there["machine"])
    same = ("name", "runtime", "threads", "rounds", "size", "executed_madds_b", "baseline", "include")
    assert {key: there[key] for key in same} == {key: here[key] for key in same}
    assert (there["agreement"], here["agreement"]) == (1.0, None)
    assert there["machine"]["device"].startswith("ssh://")
    assert there["peak_memory_mb"] > 0
    assert (folder / "there" / "pareto.png").exists() == (folder / "here" / "pareto.png").exists()


def test_ctrl_c_leaves_nothing_on_the_device(folder, device):
    before = set(_folders())
    command = [
        sys.executable,
        str(ROOT / "tools/benchmark.py"),
        "run=tiny",
        *device,
        "measure.interval=0.001",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "measure.most=1000000", "out=none"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 300
    while not any((path / "__pycache__").exists() for path in set(_folders()) - before):  # it measures
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read().splitlines()[-1] == "interrupted"
    process.stderr.close()
    assert set(_folders()) <= before


def _folders():
    return Path("/tmp").glob(f"{PREFIX}*")


def test_what_is_refused_before_anything_is_exported(folder, device):
    assert "include=all runs PyTorch" in run(
        "benchmark", "run=tiny", "include=all", *device, cwd=folder, status=1
    )
    table = ["table=latency", "run=tiny", "out=x.json", *device]
    assert "needs runtime=onnx" in run("benchmark", *table, "runtime=openvino", cwd=folder, status=1)
    assert "no ssh server answers" in run(
        "benchmark", "run=tiny", "device=ssh://127.0.0.1:1", cwd=folder, status=1
    )
