"""Runs the tools as a user would, in separate processes.

Starting Python and importing torch takes longer than most of the tested commands. A server process therefore
imports what all tools import, once, and every command runs in a new copy of it.
"""

import gc
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([
    *("engine.environment", "engine.config.launch", "engine.config.training", "engine.config.runs"),
    *(f"{task}.{module}" for task in ("seg", "det", "cls") for module in ("task", "model", "data.streets")),
    *("seg.eval.evaluator", "det.eval.evaluator", "cls.eval.evaluator", "engine.train.distillation"),
    *("albumentations", "matplotlib.pyplot", "torch.utils.tensorboard", "onnxscript"),
    *("hydra._internal.core_plugins.basic_launcher", "hydra._internal.core_plugins.file_config_source"),
])  # fmt: skip


def run(tool, *arguments, cwd, status=0, alone=False):
    """Run a tool in a separate process; returns its output.

    alone: start Python for it, instead of copying the server.
    """
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cwd / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    if alone:
        command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments]
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        return _checked(done.returncode, done.stdout, done.stderr, status)
    outputs = [cwd / f".{stream}" for stream in ("stdout", "stderr")]
    # The server's environment is that of the first call. OpenMP reads its variables when torch is imported.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        process = _processes.Process(
            target=_run_script, args=(ROOT / "tools" / f"{tool}.py", arguments, cwd, environment, outputs)
        )
        process.start()
    process.join(TIMEOUT_S)
    if process.is_alive():
        process.kill()
        process.join()
    printed, errors = (path.read_text(encoding="utf-8", errors="replace") for path in outputs)
    for path in outputs:
        path.unlink()
    return _checked(process.exitcode, printed, errors, status)


def _checked(exit_status, printed, errors, expected):
    assert exit_status == expected, printed + errors
    if expected == 1:
        assert "Traceback" not in errors, errors
    return printed + errors


def _run_script(script, arguments, cwd, environment, outputs):
    for stream, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    gc.freeze()
    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(sys.modules["engine.environment"])
    os.chdir(cwd)
    sys.path[0:0] = [str(script.parent), str(ROOT)]
    sys.argv = [str(script), *arguments]
    multiprocessing.set_start_method(None, force=True)  # Python's default, not the server's
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
