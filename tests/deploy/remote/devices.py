"""Devices that are this machine, and kits of small models."""

import stat
import sys

import numpy as np
import pytest
import torch

from deploy.latency_table.layer_graph import layer_graph
from deploy.remote.device import ShellDevice
from deploy.remote.kit import Kit
from deploy.timing.latency import Rounds

SHAPE = (1, 3, 16, 16)
QUICK = Rounds(warmup=1, least=2, most=3, budget_s=5)


def here(folder):
    """This machine as a device without a network in between; its temporary folders are in `folder`."""
    return ShellDevice(
        address="here://",
        login="sh -c",
        command=lambda script: ["sh", "-c", script],
        folder=str(folder),
    )


def kit_of(folder, **modules):
    """A kit that times these modules in turns."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    folder.mkdir()
    kit = Kit(folder, threads=1)
    for name, module in modules.items():
        graph = layer_graph(module, [torch.rand(SHAPE)])
        kit.add(name, graph, runtime="onnx", inputs=[(SHAPE, "float32")], agreement=1.0)
        with torch.inference_mode():
            kit.expect(name, [module(torch.from_numpy(kit.inputs(name)[0])).numpy()])
    kit.time_in_turns(list(modules), QUICK, memory=True)
    return kit


def spoil(kit, name):
    """Let the kit expect other outputs of a model than it has."""
    file = kit.folder / kit.models[name]["expected"]
    with np.load(file) as stored:
        values = stored["0"].copy()
    values[::2] += 1
    np.savez(file, **{"0": values})


def program(path, text):
    """An executable script."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


ADB = f"""#!{sys.executable}
import os, shutil, subprocess, sys, threading

words, root = sys.argv[1:], os.environ["FAKE_ADB_ROOT"]
with open(os.path.join(root, "adb.log"), "a") as log:
    log.write(repr(words) + "\\n")
if words[:1] == ["-s"]:
    words = words[2:]
if words[0] == "push":
    source, target = words[1:]
    shutil.copytree(source, target, dirs_exist_ok=True)
    print("1 file pushed")
elif words[:2] == ["shell", "-T"] and len(words) == 3:
    script = words[2].replace("/data/local/tmp", root)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    child = subprocess.Popen(["sh", "-c", script], start_new_session=True, **pipes)

    def pass_on(source, target):  # so the phone notices if this program is killed
        while data := os.read(source, 65536):
            os.write(target, data)
        if target == child.stdin.fileno():
            child.stdin.close()

    pairs = [(child.stdout.fileno(), 1), (child.stderr.fileno(), 2), (0, child.stdin.fileno())]
    threads = [threading.Thread(target=pass_on, args=pair, daemon=True) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join()
    os._exit(child.wait())
else:
    sys.exit("adb: unknown command")
"""
"""Plays adb with a device whose /data/local/tmp is $FAKE_ADB_ROOT."""

RUNNER = f"""#!{sys.executable}
import sys

options, (model, times) = sys.argv[1:-2], sys.argv[-2:]
assert options[:5] == ["-I", "-m", "times", "-r", options[4]], options
assert options[5:] == ["-e", "cpu", "-x", "2", "-y", "1"], options
number = int(model.split("/")[-1].split(".")[0]) + 1
with open(times, "a") as file:
    for call in range(int(options[4])):
        seconds = number * (call + 1) / 1000 if call else 1.0
        print(f"models,{{seconds}},5000,99,{{call}}", file=file)
"""
"""Plays onnxruntime_perf_test: call c of model m takes m * c milliseconds, and the first call a second."""


def fake_adb(folder, monkeypatch):
    """Put a fake adb first in the PATH; returns the folder that is the device's /data/local/tmp."""
    programs, root = folder / "programs", folder / "phone"
    programs.mkdir()
    root.mkdir()
    program(programs / "adb", ADB)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("FAKE_ADB_ROOT", str(root))
    return root
