"""Check a dataset before training: reads every file once, lists problems, and prints the command to train.

Usage: python tools/check.py <folder> | task=<task> data=<format> data.root=<folder> [key=value ...]

Examples:
  python tools/check.py my_data                                  recognizes the layout
  python tools/check.py my_data task=det data.size=512           for detection, at this input size
  python tools/check.py task=det data=coco data.root=/data/coco
  python tools/check.py task=seg data=masks data.root=my_data strict=true out=report
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from doctor.check.cache import FactCache, facts_file
from doctor.check.dataset_check import check_dataset
from doctor.check.results import data_name, text, write_results
from doctor.layouts.arguments import is_folder, with_layout, with_root_as_folder
from engine.config import training
from engine.config.choices.automatic import with_defaults
from engine.config.instantiate import options, task_info
from engine.config.launch import launch
from engine.config.options import CheckOptions
from engine.config.overrides import tasks
from engine.run import run_folder

ARGUMENTS: list[str] = []
"""The arguments that choose the data, typed or recognized, for the printed training command."""


def complete(typed: Sequence[str]) -> list[str]:
    """The arguments, with a folder replaced by its layout. Exits if the folder must be converted first."""
    arguments = ["strict=true" if argument == "--strict" else argument for argument in typed]
    arguments = with_root_as_folder(arguments)
    folder = next((each for each in arguments if is_folder(each)), None)
    if folder is not None:
        infos = [task_info(DictConfig({"package": name})) for name in tasks()]
        arguments = with_layout(folder, [each for each in arguments if each != folder], infos)
        if not arguments:
            sys.exit(0)
    ARGUMENTS[:] = [each for each in arguments if not each.startswith(("out=", "strict=", "-"))]
    return arguments


def check(config: DictConfig) -> int:
    """Check the data of a training configuration; returns the exit status."""
    automatic = training.automatic_keys(config)
    config = with_defaults(config, automatic)
    training.validate(config)
    training.check_excluded(config)
    chosen = options(CheckOptions, config)
    name = data_name(config.data)
    out = Path(chosen.out or Path("runs/check") / name)
    facts = FactCache(facts_file(), workers=min(config.data.workers, os.cpu_count() or 1))
    with run_folder.claim(out, key="out"), closing(facts):
        checked = check_dataset(
            build=partial(training.build_changed_source, config),
            build_task=partial(training.build_task_for, config, automatic=automatic),
            info=task_info(config),
            cache=facts,
            eval_split=config.data.split,
        )
        print(text(checked.at(str(out))))
        hints = training.few_images(config, checked.train_images) if checked.can_train else []
        print("\n".join([*hints, *write_results(checked, out, name=name, arguments=ARGUMENTS)]))
    return checked.status(strict=chosen.strict)


if __name__ == "__main__":
    launch(check, "check", __doc__, complete=complete)
