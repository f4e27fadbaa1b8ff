"""Does a change that should change nothing give identical losses? Trains two revisions, compares their logs.

Usage: python benchmarks/same_losses.py REVISION_A REVISION_B [override ...]
Example: python benchmarks/same_losses.py main HEAD model=raspp trainer.accumulate=2

Each revision is checked out into a temporary worktree and trained for 10 steps on small built-in streets, on
the CPU, with the Python that runs this script. Exit status 0: every logged loss and metric is the same to the
last digit; 1: not.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    "data.source.num_train=12",
    "data.source.num_val=4",
    "data.source.num_test=0",
    "data.source.size=[64,128]",
    "data.crop=[64,96]",
    "trainer.steps=10",
    "trainer.batch=4",
    "trainer.log_every=1",
    "trainer.ema=0.9",
    "trainer.device=cpu",
    "samples=0",
]


def rows(revision: str, overrides: list[str], folder: Path) -> list[dict[str, Any]]:
    """Train `revision` in a worktree below `folder` and read its log, less what is measured with a clock."""
    tree, run = folder / "tree", folder / "run"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(tree), revision], check=True)
    try:
        environment = {**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(folder / "cache")}
        command = [sys.executable, str(tree / "tools" / "train.py"), *SETTINGS, *overrides, f"run={run}"]
        subprocess.run(command, check=True, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    clocked = ("images_per_s", "data_wait")
    return [{k: v for k, v in json.loads(line).items() if k not in clocked} for line in lines]


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    revisions, overrides = sys.argv[1:3], sys.argv[3:]
    logs = []
    for revision in revisions:
        with tempfile.TemporaryDirectory() as folder:
            logs.append(rows(revision, overrides, Path(folder)))
    for first, second in zip(*logs, strict=False):
        differing = [key for key in first if first[key] != second.get(key)]
        if differing:
            key = differing[0]
            values = f"{first[key]} in {revisions[0]}, {second.get(key)} in {revisions[1]}"
            print(f"step {first['step']}: {key} is {values}")
            return 1
    same = len(logs[0]) == len(logs[1])
    print(f"{len(logs[0])} rows, identical" if same else f"{len(logs[0])} rows against {len(logs[1])}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
