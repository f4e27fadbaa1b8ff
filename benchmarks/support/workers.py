"""A process that trains on demand: the sides of a comparison of trainings."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.processes import child_environment

SUPPORT = Path(__file__).resolve().parent


class Side:
    """A process that trains one round on demand."""

    def __init__(self, script: str, options: dict[str, Any], *, without: Sequence[str] = ()) -> None:
        self.script = script
        self.process = subprocess.Popen(
            [sys.executable, str(SUPPORT / script), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(without=without),
        )

    def round(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.script} ended with status {self.process.wait()}")
        seconds: dict[str, float] = json.loads(line)
        return seconds

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
