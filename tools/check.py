"""Check a dataset before training: reads everything once, says what is wrong and which command will train.

Usage: python tools/check.py <folder> | task=<task> data=<format> data.root=<folder> [key=value ...]

Examples:
  python tools/check.py my_data                                  finds out what it is
  python tools/check.py my_data task=det data.size=512           as data for detection, at this input size
  python tools/check.py task=det data=coco data.root=/data/coco
  python tools/check.py task=seg data=masks data.root=my_data strict=true out=report
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from doctor.check.cache import FactCache, facts_file
from doctor.check.dataset_check import check_dataset
from doctor.check.page import write_page
from doctor.check.recognized import as_arguments
from doctor.check.results import text, train_command, write_results
from doctor.layouts.recognize import recognize
from engine.config.instantiate import options, task_info
from engine.config.launch import launch
from engine.config.options import CheckOptions
from engine.config.overrides import tasks
from engine.config.training import build_changed_source, build_task, validate

ARGUMENTS: list[str] = []
"""The data and its options as they were typed or recognized, for the command that trains."""


def complete(typed: Sequence[str]) -> list[str]:
    """The arguments, with the layout of a folder instead of it. Ends if it must be converted first."""
    arguments = ["strict=true" if argument == "--strict" else argument for argument in typed]
    if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        folder, *rest = arguments
        chosen = [rest.partition("=")[2] for rest in rest if rest.startswith("task=")] or tasks()
        infos = [task_info(DictConfig({"package": name})) for name in chosen]
        found = as_arguments(Path(folder), recognize(Path(folder), infos))
        print("\n".join(found.lines), flush=True)
        if not found.arguments:
            sys.exit(0)
        arguments = [*found.arguments, *(argument for argument in rest if not argument.startswith("task="))]
    ARGUMENTS[:] = [each for each in arguments if not each.startswith(("out=", "strict=", "-"))]
    return arguments


def check(config: DictConfig) -> int:
    """Check the data of a training configuration; returns the exit status."""
    validate(config)
    chosen = options(CheckOptions, config)
    root = config.data.get("root")
    name = Path(root).absolute().name if root else config.data.source._target_.rpartition(".")[2]
    out = Path(chosen.out or Path("runs/check") / name)
    cache = FactCache(facts_file(), workers=min(config.data.workers, os.cpu_count() or 1))
    try:
        checked = check_dataset(
            build=partial(build_changed_source, config),
            build_task=partial(build_task, config),
            info=task_info(config),
            cache=cache,
            eval_split=config.data.split,
        ).at(str(out))
    finally:
        cache.close()
    write_results(checked, out)
    command = train_command(ARGUMENTS, checked, out)
    write_page(checked, out / "report.html", name=name, command=command)
    print(text(checked))
    print(f"report: {out / 'report.html'}")
    if command:
        print(f"next: {command}")
    return checked.status(strict=chosen.strict)


if __name__ == "__main__":
    launch(check, "check", __doc__, complete=complete)
