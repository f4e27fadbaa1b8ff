"""Kits that are timed with Python and with a runner, on this machine as the device."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from deploy.remote import connect as connecting
from deploy.remote import python_timer
from deploy.remote.connect import connect
from deploy.remote.device import PREFIX
from deploy.remote.options import Remote
from deploy.remote.python_timer import PythonTimer
from deploy.remote.runner_timer import CALLS, CALLS_ALONE
from deploy.timing import machine
from deploy.timing.latency import Rounds
from tests.deploy.remote.devices import QUICK, RUNNER, fake_adb, here, kit_of, program, spoil
from tests.refusals import refuses

PYTHON = Remote(python=sys.executable)


def opened(folder, options=PYTHON, log=lambda text: None):
    return PythonTimer.open(here(folder), options, ["onnx"], log)


def left_behind(folder):
    return list(folder.glob(f"{PREFIX}*"))


def test_a_device_times_models_in_turns_and_describes_itself(tmp_path):
    kit = kit_of(tmp_path / "kit", small=nn.Conv2d(3, 4, 3), large=nn.Conv2d(3, 64, 5))
    shown = []
    times = opened(tmp_path).time(kit, show=shown.append)
    assert set(times.seconds) == set(times.peak_memory_mb) == {"small", "large"}
    assert times.agreement == {"small": 1.0, "large": 1.0}
    assert 2 <= len(times.seconds["small"]) == len(times.seconds["large"]) <= 3
    assert min(min(values) for values in times.seconds.values()) > 0
    assert all(0 < mb < 500 for mb in times.peak_memory_mb.values())
    assert shown[-1] == {"group": 1, "groups": 1}
    ours = machine.describe()
    assert set(ours) <= set(times.machine)
    assert times.machine["device"] == "here://"
    assert (times.machine["cpu"], times.machine["python"]) == (ours["cpu"], ours["python"])
    assert set(times.machine["versions"]) == {"numpy", "onnxruntime"}
    assert not left_behind(tmp_path)


def test_wrong_outputs_are_noticed(tmp_path):
    kit = kit_of(tmp_path / "kit", good=nn.Conv2d(3, 4, 3), bad=nn.Conv2d(3, 4, 1))
    spoil(kit, "bad")
    timer = opened(tmp_path)
    message = refuses(
        lambda: timer.time(kit, show=print), "returns wrong outputs for bad", "only 50.0% of the numbers"
    )
    assert f"onnxruntime {timer.version('onnx')} there" in message
    assert not left_behind(tmp_path)


def test_a_network_that_is_not_a_number_is_not_as_expected(tmp_path):
    module = nn.Conv2d(3, 4, 3)
    kit = kit_of(tmp_path / "kit", network=module)
    with torch.no_grad():
        module.weight.fill_(torch.nan)
    broken = kit_of(tmp_path / "broken", network=module)
    (kit.folder / "models/0.onnx").write_bytes((broken.folder / "models/0.onnx").read_bytes())
    refuses(lambda: opened(tmp_path).time(kit, show=print), "wrong outputs for network: only 0.0%")


def test_a_model_that_the_runtime_cannot_load(tmp_path):
    kit = kit_of(tmp_path / "kit", network=nn.Conv2d(3, 4, 3))
    (kit.folder / "models/0.onnx").write_bytes(b"not a model")
    refuses(lambda: opened(tmp_path).time(kit, show=print), "onnxruntime .* there cannot load network \\(")


def test_ctrl_c_removes_the_folder(tmp_path):
    kit = kit_of(tmp_path / "kit", network=nn.Conv2d(3, 4, 3))
    kit.groups[0]["rounds"] = {**QUICK.__dict__, "most": 10**6, "interval": 1e-9, "budget_s": 60}

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path).time(kit, show=interrupt)
    assert not left_behind(tmp_path)


def test_the_program_ends_and_removes_its_folder_if_the_connection_is_lost(tmp_path):
    kit = kit_of(tmp_path / f"{PREFIX}lost", network=nn.Conv2d(3, 4, 3))
    kit.groups[0]["rounds"] = {**QUICK.__dict__, "most": 10**6, "interval": 1e-9, "budget_s": 60}
    kit.write()
    command = [sys.executable, "measure.py", "--remove"]
    process = subprocess.Popen(command, cwd=kit.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert json.loads(process.stdout.readline())["group"] == 0  # it measures
    process.stdin.close()
    assert process.wait(20) == 1
    process.stdout.close()
    assert not left_behind(tmp_path)


def test_a_program_that_is_killed_is_not_a_lost_connection(tmp_path):
    kit = kit_of(tmp_path / "kit", network=nn.Conv2d(3, 4, 3))
    text = f'#!/bin/sh\n[ "$1" = measure.py ] && kill -9 $$\nexec {sys.executable} "$@"\n'
    options = Remote(python=str(program(tmp_path / "python", text)))
    refuses(lambda: opened(tmp_path, options).time(kit, show=print), "was killed", "memory ran out there")
    assert not left_behind(tmp_path)


def test_a_python_that_is_missing_or_too_old_is_named(tmp_path):
    refuses(
        lambda: opened(tmp_path, Remote(python="/no/python")),
        "/no/python does not run there",
        "remote.python=",
    )
    old = program(tmp_path / "old", """#!/bin/sh\necho welcome\necho '{"python": [3, 7, 16]}'\n""")
    refuses(lambda: opened(tmp_path, Remote(python=str(old))), "is Python 3.7.16, and 3.8 or newer is needed")
    other = program(tmp_path / "other", "#!/bin/sh\necho hello\n")
    refuses(lambda: opened(tmp_path, Remote(python=str(other))), "is not Python 3")
    with pytest.raises(ValueError, match="python must be the name"):
        Remote(python=" ")


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A Python that lacks a library, with a pip that writes down its arguments and installs it."""
    monkeypatch.setitem(python_timer.LIBRARIES, "onnx", "library_that_is_missing")
    monkeypatch.setenv("HOME", str(tmp_path))
    return program(
        tmp_path / "python",
        f"""#!/bin/sh
if [ "$1" = -m ]; then
    echo "$@" >> {tmp_path}/pip.log
    mkdir -p "$6"
    echo "__version__ = '9.1'" > "$6/library_that_is_missing.py"
else
    exec {sys.executable} "$@"
fi
""",
    )


def test_nothing_is_installed_unless_the_user_says_so(tmp_path, pip):
    log = []
    message = refuses(
        lambda: opened(tmp_path, Remote(python=str(pip)), log.append),
        "library_that_is_missing cannot be imported there",
        "run this, or let remote.install=true run it",
    )
    command = message.partition("remote.install=true run it: ")[2]
    assert not log
    assert not (tmp_path / "pip.log").exists()
    subprocess.run(command, shell=True, check=True)  # the command as it is printed
    assert opened(tmp_path, Remote(python=str(pip)), log.append).version("onnx") == "9.1"
    assert not log


def test_what_is_installed_is_said_first(tmp_path, pip):
    log = []
    timer = opened(tmp_path, Remote(python=str(pip), install=True), log.append)
    version = ".".join(map(str, sys.version_info[:2]))
    target = f"{tmp_path}/.local/share/mobilenet-dense/python{version}"
    arguments = f"-m pip install --upgrade --target {target} library_that_is_missing numpy"
    assert log == [f"here://: {pip} {arguments}"]
    assert (tmp_path / "pip.log").read_text() == f"{arguments}\n"
    assert (timer.version("onnx"), timer.packages) == ("9.1", target)


def test_a_pip_that_fails_is_reported(tmp_path, pip):
    pip.write_text(pip.read_text().replace("mkdir", "echo no network >&2; exit 1; mkdir"))
    refuses(
        lambda: opened(tmp_path, Remote(python=str(pip), install=True)),
        "pip install .* failed \\(no network\\)",
    )


def test_an_interpreter_can_be_in_the_home_folder_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my env").mkdir()
    os.symlink(sys.executable, tmp_path / "my env" / "python")
    with pytest.raises(ValueError, match="onnxruntime cannot be imported"):
        # Without its environment, the linked Python has no packages, but it ran.
        PythonTimer.open(here(tmp_path), Remote(python="~/my env/python"), ["onnx"], print)


@pytest.fixture
def phone(tmp_path, monkeypatch):
    root = fake_adb(tmp_path, monkeypatch)
    return root, program(tmp_path / "onnxruntime_perf_test", RUNNER)


def with_runner(runner, threads=1):
    log = lambda text: None  # noqa: E731
    return connect("adb", Remote(runner=str(runner)), runtimes=["onnx"], threads=[threads], log=log)


def test_a_runner_is_started_in_turns(tmp_path, phone):
    root, runner = phone
    kit = kit_of(tmp_path / "kit", one=nn.Conv2d(3, 4, 1), two=nn.Conv2d(3, 8, 1))
    kit.threads = 2
    kit.groups = []
    kit.time_in_turns(["one", "two"], Rounds(warmup=1, least=3, most=9))
    shown = []
    times = with_runner(runner).time(kit, show=shown.append)
    # Its first call is the warm-up; call n takes n ms, so the counted ones 2, 3 ... CALLS + 1.
    median = (2 + CALLS + 1) / 2 / 1000
    assert times.seconds["one"] == pytest.approx([median] * 3)
    assert times.seconds["two"] == pytest.approx([2 * median] * 3)
    assert (times.agreement, times.peak_memory_mb) == ({}, {})
    assert times.machine["device"] == "adb"
    assert times.machine["cores"] == len(os.sched_getaffinity(0))
    assert times.machine["runner"].startswith("onnxruntime_perf_test ")
    assert [entry.get("round") for entry in shown] == [1, 2, None]
    assert not left_behind(root)


def test_a_model_that_a_runner_measures_alone_has_the_time_of_every_call(tmp_path, phone):
    _, runner = phone
    kit = kit_of(tmp_path / "kit", one=nn.Conv2d(3, 4, 1))
    kit.threads = 2
    kit.groups[0]["rounds"]["warmup"] = 2
    times = with_runner(runner).time(kit, show=print)
    assert times.seconds["one"] == pytest.approx([number / 1000 for number in range(3, CALLS_ALONE + 3)])


def test_a_runner_that_fails_or_is_another_program_is_named(tmp_path, phone):
    root, runner = phone
    kit = kit_of(tmp_path / "kit", one=nn.Conv2d(3, 4, 1))
    refuses(
        lambda: with_runner(runner).time(kit, show=print), "onnxruntime_perf_test failed there"
    )  # threads=1
    other = program(tmp_path / "other", "#!/bin/sh\necho hello\n")
    again = kit_of(tmp_path / "again", one=nn.Conv2d(3, 4, 1))
    refuses(lambda: with_runner(other).time(again, show=print), "other did not write the times of every call")
    refuses(lambda: with_runner(tmp_path / "none"), "remote.runner=.*none: no such file")
    assert not left_behind(root)


def test_what_a_device_cannot_measure_is_refused_first(tmp_path, phone, monkeypatch):
    _, runner = phone

    def attempt(address, runtime="onnx", threads=1, **options):
        return lambda: connect(address, Remote(**options), runtimes=[runtime], threads=[threads], log=print)

    refuses(attempt("adb"), "Android has no Python", "remote.runner=", "ssh://")
    refuses(
        attempt("adb", runner=str(runner), threads=4096), "threads must be 1 to .* \\(the cores of adb\\)"
    )
    refuses(
        attempt("adb", "openvino", runner=str(runner)),
        "runtime=openvino cannot be measured there; set runtime=onnx$",
    )
    refuses(attempt("ssh://pi", "eager"), "runtime=eager needs PyTorch; set runtime=onnx or runtime=openvino")
    refuses(attempt("ssh://pi", "all"), "runtime=all cannot be measured there")
    with pytest.raises(ValueError, match="install is for Python"):
        Remote(runner="x", install=True)
    assert connecting.RUNTIMES == ("onnx", "openvino")
