"""Samples/s of the loader alone: random scale 0.5 to 2, crop 769 and flip of 1024x2048 PNGs.

Usage: python benchmarks/loader.py [--size 1024 2048] [--crop 769] [--workers 1 2] [--samples 48] [--rounds 5]
                                   [--pictures 16] [--root CITYSCAPES]

This project's training split as `tools/train.py` reads it, without and with `data.cache` (decoded pixels,
here in the system's page cache), against Pillow and torchvision's transforms as its reference script has them
(`torchvision_way.py`, with base = the pictures' height). A round begins with the start of the loader and
reads just the samples that it counts. torchvision's way hands over normalized floats; ours hands over bytes,
which the model normalizes on its device.

`--root` measures on the pictures of a Cityscapes tree instead of drawn ones.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measuring
import torchvision_way
from pictures import drawn, opened, paths, write_training_ids

from engine.data.loader import BatchLoader, TrainingSampler
from engine.data.pixel_cache import PixelCache
from seg.transforms import TrainTransform

BATCH = 4
REFERENCE = "Pillow and torchvision"


def read_ours(dataset: Any, samples: int, workers: int) -> None:
    stream = TrainingSampler(num_samples=len(dataset), batch=BATCH, seed=0)
    chosen: Any = [stream.step_batches(step)[0] for step in range(samples // BATCH)]
    for _ in BatchLoader(dataset, chosen, workers=workers):
        pass


def read_theirs(dataset: torchvision_way.Pictures, samples: int, workers: int) -> None:
    for _ in torchvision_way.loader(dataset, samples=samples, batch=BATCH, workers=workers):
        pass


def sides(options: argparse.Namespace, data: Any, folder: Path) -> dict[str, Callable[[int], None]]:
    """Name -> a job that reads the samples with that many workers."""
    masks = write_training_ids(data, folder)
    images = paths(data.splits["train"].images)
    theirs = torchvision_way.Pictures(images, masks, base=options.size[0], crop=options.crop)
    transform = TrainTransform(crop=options.crop)
    ours = data.dataset("train", transform)
    cache = PixelCache.open_or_build(folder / "cache", images=images, masks=ours.masks())
    cached = data.dataset("train", transform, cache=cache)
    return {
        REFERENCE: partial(read_theirs, theirs, options.samples),
        "ours": partial(read_ours, ours, options.samples),
        "ours, data.cache": partial(read_ours, cached, options.samples),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--crop", type=int, default=769)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=48, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--root", help="a Cityscapes tree (default: drawn pictures of --size)")
    options = parser.parse_args(arguments)
    options.samples -= options.samples % BATCH
    rows = []
    tree = opened(options.root, options.pictures) if options.root else None
    with tree or drawn(options.pictures, tuple(options.size)) as data, TemporaryDirectory() as folder:
        files = paths(data.splits["train"].images)
        megabytes = sum(Path(file).stat().st_size for file in files) / len(files) / 1e6
        jobs = sides(options, data, Path(folder))
        for workers in options.workers:
            turns = {name: measuring.clocked(partial(job, workers)) for name, job in jobs.items()}
            seconds = measuring.take_turns(turns, rounds=options.rounds)
            for name, times in seconds.items():
                rates = measuring.spread([options.samples / time for time in times])
                ratios = measuring.spread(measuring.ratio(seconds[REFERENCE], times), 2)
                rows.append([name, workers, rates, ratios])
    print(measuring.heading(__file__))
    print(f"{len(files)} pictures of {megabytes:.2f} MB on average.\n")
    print(measuring.table(["loader", "workers", "samples/s", f"times {REFERENCE}"], rows))


if __name__ == "__main__":
    main()
