"""Check that two revisions train identically: train both on a small dataset and compare their logs exactly.

Usage: python benchmarks/same_losses.py REVISION REVISION [override ...]

Examples:
  python benchmarks/same_losses.py main HEAD                          segmentation, 10 steps
  python benchmarks/same_losses.py main HEAD task=det trainer.steps=40
  python benchmarks/same_losses.py main . model=raspp trainer.accumulate=2

Each revision is checked out into a temporary worktree ("." is the working tree as it is) and trained on the
CPU, with the Python that runs this script, on drawn scenes unless an override names other data. Exit status:
0 if every loss and metric in the logs is the same, 1 if not.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRAINING = (
    "trainer.steps=10",
    "trainer.batch=4",
    "trainer.log_every=1",
    "trainer.ema=0.9",
    "trainer.device=cpu",
    "samples=0",
)
_FEW = ("data.source.num_train=12", "data.source.num_val=4", "data.source.num_test=0")
_SMALL = "data.source.size=[64,128]"
SCENES = {
    "seg": (*_FEW, _SMALL, "data.crop=[64,96]"),
    "det": (*_FEW, _SMALL, "data.size=[64,128]"),
    "cls": _FEW,
}
CLOCKED = ("time", "images_per_s", "data_wait")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revisions", nargs=2, metavar="REVISION", help="a commit, or . for the working tree")
    parser.add_argument("overrides", nargs="*", help="for tools/train.py of both")
    options = parser.parse_args()
    revisions, overrides = options.revisions, with_defaults(options.overrides)
    logs = []
    for revision in revisions:
        with tempfile.TemporaryDirectory() as folder, checked_out(revision, Path(folder)) as tree:
            logs.append(train(tree, overrides, Path(folder)))
    difference = first_difference(*logs)
    if difference is None:
        print(f"{len(logs[0])} rows, identical")
        return 0
    print(difference.format(*revisions))
    return 1


def with_defaults(overrides: list[str]) -> list[str]:
    """The overrides, after the settings of a small training."""
    keys = dict(override.partition("=")[::2] for override in overrides)
    task = keys.get("task", "seg")
    scenes = () if {"data", "experiment"} & keys.keys() else SCENES.get(task, ())
    return [f"task={task}", *TRAINING, *scenes, *(o for o in overrides if not o.startswith("task="))]


@contextlib.contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    if revision == ".":
        yield ROOT
        return
    tree, worktree = folder / "tree", ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*worktree, "add", "--detach", "--quiet", str(tree), revision], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*worktree, "remove", "--force", str(tree)], check=True)


def train(tree: Path, overrides: list[str], folder: Path) -> list[dict[str, Any]]:
    """Train with the code in `tree`. Returns: the rows of its log, without what a clock measured."""
    run = folder / "run"
    environment = {**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, str(tree / "tools" / "train.py"), *overrides, f"run={run}"]
    subprocess.run(command, check=True, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKED} for line in lines]


def first_difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str | None:
    """A sentence with {0} and {1} for the names of the two revisions; None if the logs are the same."""
    for one, other in zip(ours, theirs, strict=False):
        for key in {**one, **other}:
            if one.get(key) != other.get(key):
                values = f"{one.get(key)} in {{0}}, {other.get(key)} in {{1}}"
                return f"step {one.get('step')} ({one.get('kind')}): {key} is {values}"
    if len(ours) != len(theirs):
        return f"{len(ours)} rows in {{0}}, {len(theirs)} in {{1}}"
    return None


if __name__ == "__main__":
    sys.exit(main())
