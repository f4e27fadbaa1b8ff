"""Samples/s of data loading alone: random scale 0.5 to 2, crop 769 and flip of 1024x2048 PNGs.

Usage: python benchmarks/data_loading.py [--size 1024 2048] [--crop 769] [--workers 1 2] [--samples 48]
                                         [--rounds 5] [--images 16] [--root CITYSCAPES]

This project's training split as `tools/train.py` reads it, without and with `data.cache` (decoded pixels,
here in the system's page cache), against Pillow and torchvision's transforms as in its reference script
(`support/torchvision_training.py`, with base = the images' height). A round begins with the start of the
loader and reads exactly the samples that it counts. torchvision returns normalized floats; ours are bytes,
which the model normalizes on its device.

`--root` uses the images of a Cityscapes tree instead of drawn ones.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.support import torchvision_training
from benchmarks.support.images import as_strings, cityscapes_images, drawn_images, write_training_ids
from benchmarks.support.report import heading, table
from benchmarks.support.rounds import clocked, ratio, spread, take_turns
from engine.data.loader import BatchLoader, TrainingSampler
from engine.data.pixel_cache import PixelCache
from seg.transforms import TrainTransform

BATCH = 4
REFERENCE = "Pillow and torchvision"


def read_ours(dataset: Any, samples: int, workers: int) -> None:
    stream = TrainingSampler(num_samples=len(dataset), batch=BATCH, seed=0)
    keys: Any = [stream.step_batches(step)[0] for step in range(samples // BATCH)]
    for _ in BatchLoader(dataset, keys, workers=workers):
        pass


def read_theirs(dataset: torchvision_training.ImageMaskDataset, samples: int, workers: int) -> None:
    for _ in torchvision_training.loader(dataset, samples=samples, batch=BATCH, workers=workers):
        pass


def sides(options: argparse.Namespace, source: Any, folder: Path) -> dict[str, Callable[[int], None]]:
    """Name -> a job that reads the samples with that many workers."""
    masks = write_training_ids(source, folder)
    images = as_strings(source.splits["train"].images)
    theirs = torchvision_training.ImageMaskDataset(images, masks, base=options.size[0], crop=options.crop)
    transform = TrainTransform(crop=options.crop)
    ours = source.dataset("train", transform)
    cache = PixelCache.open_or_build(folder / "cache", images=images, masks=ours.masks())
    cached = source.dataset("train", transform, cache=cache)
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
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--root", help="a Cityscapes tree (default: drawn scenes of --size)")
    options = parser.parse_args(arguments)
    options.samples -= options.samples % BATCH
    rows = []
    tree = cityscapes_images(options.root, options.images) if options.root else None
    with tree or drawn_images(options.images, tuple(options.size)) as source, TemporaryDirectory() as folder:
        files = as_strings(source.splits["train"].images)
        megabytes = sum(Path(file).stat().st_size for file in files) / len(files) / 1e6
        jobs = sides(options, source, Path(folder))
        for workers in options.workers:
            turns = {name: clocked(partial(job, workers)) for name, job in jobs.items()}
            seconds = take_turns(turns, rounds=options.rounds)
            for name, times in seconds.items():
                rates = spread([options.samples / time for time in times])
                ratios = spread(ratio(seconds[REFERENCE], times), 2)
                rows.append([name, workers, rates, ratios])
    print(heading(__file__))
    print(f"{len(files)} images of {megabytes:.2f} MB on average.\n")
    print(table(["loader", "workers", "samples/s", f"times {REFERENCE}"], rows))


if __name__ == "__main__":
    main()
