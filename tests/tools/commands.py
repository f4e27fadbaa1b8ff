"""Runs the tools as a user would, in separate processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(tool, *arguments, cwd, status=0):
    """Run a tool in a separate process; returns its output."""
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cwd / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    if status == 1:
        assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
