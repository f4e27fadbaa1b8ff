"""The session of a GPU check: its device, its time limit, and what it found."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.support.processes import ROOT, python

SCENES = ("data.source.num_train=64", "data.source.num_val=16", "data.source.num_test=0")
"""Options of the drawn scenes that all trainings of a check use."""


class CheckFailed(Exception):
    """What was checked does not hold, or a command failed."""


class OutOfTime(Exception):
    """The time limit of the session has passed."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of the result.

    Attributes:
        check, case: what was done.
        result: `passed` or `failed`; `measured` if there is nothing to compare with; or `skipped`.
        value: the figure, or the reason.
    """

    check: str
    case: str
    result: str
    value: str


@dataclass
class Session:
    """Runs commands within the time limit, and collects findings.

    Args:
        device: `cuda` or `cpu`.
        folder: for runs and exported files.
        minutes: limit for all checks together.
        steps: length of the trainings.
        size: height and width of the images that are timed.
        rounds: how often timings take turns.
    """

    device: str
    folder: Path
    minutes: float
    steps: int = 60
    size: tuple[int, int] = (512, 1024)
    rounds: int = 20
    findings: list[Finding] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def seconds_left(self) -> float:
        """Raises: OutOfTime if there are none."""
        left = 60 * self.minutes - (time.monotonic() - self.started)
        if left <= 0:
            raise OutOfTime(f"the {self.minutes:g} minutes are over; set --minutes")
        return left

    def note(self, check: str, case: str, result: str, value: str) -> None:
        finding = Finding(check=check, case=case, result=result, value=value)
        self.findings.append(finding)
        print(f"{check}, {case}: {result}: {value}", file=sys.stderr, flush=True)

    def compare(self, check: str, case: str, ours: float, theirs: float, *, within: float) -> None:
        """Note whether two figures differ by at most the share `within` of the second."""
        difference = abs(ours - theirs) / max(abs(theirs), 1e-12)
        near = difference <= within  # false for NaN
        text = f"{ours:.6g} compared with {theirs:.6g}: {difference:.2g} apart, at most {within:g}"
        self.note(check, case, "passed" if near else "failed", text)

    def command(self, *arguments: str) -> None:
        """Run Python with these arguments.

        Raises:
            CheckFailed: with the last line of its output, if it fails.
            OutOfTime: if it takes longer than what is left.
        """
        try:
            done = python(*arguments, cwd=self.folder, timeout=self.seconds_left())
        except subprocess.TimeoutExpired:
            raise OutOfTime(
                f"the {self.minutes:g} minutes ended during {arguments[0]}; set --minutes"
            ) from None
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise CheckFailed(f"status {done.returncode}: {lines[-1]}")

    def tool(self, name: str, *overrides: str, launcher: tuple[str, ...] = ()) -> None:
        """Run one of the project's tools; `launcher` is what comes before it, such as torchrun's module."""
        self.command(*launcher, str(ROOT / "tools" / f"{name}.py"), *overrides)

    def train(self, name: str, *overrides: str, device: str = "", launcher: tuple[str, ...] = ()) -> Path:
        """Train on drawn scenes; returns the run folder. The loss of every step is logged."""
        run = self.folder / name
        default = ["task=seg", *SCENES, f"trainer.steps={self.steps}", "schedule=constant", "samples=0"]
        every = [f"trainer.eval_every={self.steps}", "trainer.log_every=1", "trainer.tensorboard=false"]
        where = [f"trainer.device={device or self.device}", f"run={run}"]
        self.tool("train", *default, *every, *where, *overrides, launcher=launcher)
        return run

    def result(self) -> dict[str, Any]:
        """For JSON."""
        from engine import runtime

        here = runtime.start(device=self.device)
        facts = runtime.describe(here)
        return {"environment": facts, "findings": [asdict(finding) for finding in self.findings]}


def losses(run: Path) -> list[float]:
    """The loss of each training step in a run's log, in order."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]
