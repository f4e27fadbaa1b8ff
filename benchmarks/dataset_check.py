"""Seconds per 1000 images of tools/check.py, and of one pass of the training loader over the same images.

Usage: python benchmarks/dataset_check.py [override ...]

Overrides are those of tools/train.py that choose the data. The check runs with an empty cache, and again with
a full one. The loader reads all splits once, augmented as in training, with data.workers processes. All files
are read once before, so that they are in the page cache of the system.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from benchmarks.support.report import heading, table
from doctor.check.cache import FactCache
from doctor.check.dataset_check import check_dataset
from engine.config.compose import compose_config
from engine.config.instantiate import build, task_info
from engine.config.training import build_changed_source, build_source, build_task_for, validate
from engine.data.loader import BatchLoader, EvaluationSampler
from engine.data.preprocessing import files_of

BATCH = 8


def read_files(datasets: list[Any]) -> None:
    for dataset in datasets:
        for sample in files_of(dataset):
            for path in sample:
                Path(path).read_bytes()


def load(datasets: list[Any], workers: int) -> None:
    for dataset in datasets:
        keys: Any = EvaluationSampler(num_samples=len(dataset), batch=BATCH)
        for _ in BatchLoader(dataset, keys, workers=workers):
            pass


def check(config: DictConfig, cache_file: Path, workers: int) -> None:
    cache = FactCache(cache_file, workers=workers)
    check_dataset(
        build=partial(build_changed_source, config),
        build_task=partial(build_task_for, config),
        info=task_info(config),
        cache=cache,
        eval_split=config.data.split,
    )
    cache.close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="of tools/train.py, which choose the data")
    config = compose_config("train", parser.parse_args(arguments).overrides)
    validate(config)
    workers = min(config.data.workers, os.cpu_count() or 1)
    augment, source = build(config.augment, key="augment"), build_source(config)
    datasets = [source.dataset(split, augment) for split in source.splits]
    number = sum(map(len, datasets))
    read_files(datasets)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            "check": partial(check, config, Path(folder, "facts"), workers),
            "check again": partial(check, config, Path(folder, "facts"), workers),
            "one pass of the loader": partial(load, datasets, workers),
        }
        rows = []
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            seconds = time.perf_counter() - started
            rows.append([name, f"{seconds:.1f}", f"{seconds / number * 1000:.1f}"])
    print(heading(__file__))
    print(f"{number} images, {workers} workers.\n")
    print(table(["", "seconds", "seconds per 1000 images"], rows))


if __name__ == "__main__":
    main()
