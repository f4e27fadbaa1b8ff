"""Memory growth in loader workers on a large dataset, in an evaluation and in a training (Linux only).

Usage: python benchmarks/memory/growth.py [--entries 100000] [--workers 4] [--images 2000] [--steps 2000]

Each row has the median memory in MB in the first, second and last third of a job, after its startup: the sum
of the proportional set sizes (PSS) of the process and its workers, so pages shared by forked workers count
once. A leak shows as growth in the last third.

1. Loader: two epochs over a dataset of `entries` files (links to one small image), in the sampler's order.
2. The same entries as Python lists of paths, for comparison: each access writes a reference count into a page
   that the workers shared before.
3. Evaluation: `images` label maps through `evaluate` with instance scores.
4. Training: `steps` steps of `Trainer.fit` on a tiny network, with its log.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import contextlib
import io
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.support.processes import shared_mb
from benchmarks.support.report import heading, table
from benchmarks.support.tiny_task import Batch, PixelTask, UnreadSplit, random_batch, tiny_network
from engine import runtime
from engine.data.images import write_png
from engine.data.loader import BatchLoader, DataLoaders, EvaluationSampler, SampleKey, TrainingSampler
from engine.io.files import pack_paths
from engine.run.run_folder import RunFolder
from engine.train import optimization
from engine.train.evaluation import evaluate
from engine.train.trainer import Trainer, TrainerOptions
from seg.data.cityscapes import CITYSCAPES_CLASSES, label_reader
from seg.data.dataset import SegmentationDataset, SegmentationSplit
from seg.eval.evaluator import SegmentationEvaluator
from seg.transforms import EvalTransform

BATCH = 50
SIDE = 32


def total_mb() -> float:
    """Memory of this process and its workers."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    return sum([shared_mb(pid) for pid in (os.getpid(), *children)])


class Gauge:
    """Reads memory at regular intervals during `total` calls, except in the first tenth and at the very end.

    At the start workers still load code, and at the end they idle.
    """

    def __init__(self, total: int, readings: int = 21) -> None:
        first, last = max(total // 10, 1), max(total - total // 20, 1)
        self._when = {round(at) for at in np.linspace(first, last, min(readings, last - first + 1))}
        self._calls = 0
        self.readings: list[float] = []

    def __call__(self) -> None:
        self._calls += 1
        if self._calls in self._when:
            self.readings.append(total_mb())

    @property
    def thirds(self) -> tuple[float, ...]:
        """The median of the readings in each third of the time."""
        assert len(self.readings) == len(self._when), f"{len(self.readings)} of {len(self._when)} readings"
        return tuple(float(np.median(part)) for part in np.array_split(self.readings, 3))


def linked(folder: Path, entries: int) -> tuple[list[str], list[str]]:
    """`entries` links to one image, and to one mask."""
    image, mask = folder / "image.png", folder / "mask.png"
    write_png(image, np.full((SIDE, SIDE, 3), 99, np.uint8))
    write_png(mask, np.full((SIDE, SIDE), 7, np.uint8))
    images, masks = [], []
    for number in range(entries):
        images.append(str(folder / f"some_city_{number:06d}_000019_leftImg8bit.png"))
        masks.append(str(folder / f"some_city_{number:06d}_000019_gtFine_labelIds.png"))
        Path(images[-1]).symlink_to(image)
        Path(masks[-1]).symlink_to(mask)
    return images, masks


def packed(images: list[str], masks: list[str]) -> SegmentationDataset:
    """The entries as this project stores them: packed arrays."""
    names = pack_paths([Path(path).stem for path in images])
    split = SegmentationSplit(images=pack_paths(images), names=names, labels=pack_paths(masks))
    read = label_reader("labelIds")
    return SegmentationDataset(split=split, read_label=read, transform=EvalTransform(), seed=0)


class ListDataset:
    """The entries as Python objects: a dict of strings each."""

    def __init__(self, images: list[str], masks: list[str]) -> None:
        pairs = zip(images, masks, strict=True)
        self.entries = [{"image": image, "mask": mask, "name": Path(image).stem} for image, mask in pairs]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        entry = self.entries[key.index]
        return {"index": key.index, "length": sum(len(value) for value in entry.values())}


def memory_over_epochs(dataset: Any, *, workers: int, epochs: int = 2) -> tuple[float, ...]:
    """Memory in each third of `epochs` epochs of a loader."""
    sampler = TrainingSampler(num_samples=len(dataset), batch=BATCH, seed=0)
    steps = epochs * len(dataset) // BATCH
    gauge = Gauge(steps)
    batches: Any = (sampler.step_batches(step)[0] for step in range(steps))
    for _ in BatchLoader(dataset, batches, workers=workers):
        gauge()
    return gauge.thirds


class PerfectTask(nn.Module):
    """Predicts the labels."""

    model: nn.Module = nn.Identity()

    def predict(self, batch: dict[str, Any]) -> torch.Tensor:
        label: torch.Tensor = batch["label"]
        return label.clamp(max=len(CITYSCAPES_CLASSES) - 1)


class RandomLabels:
    """Random label maps with instances."""

    def __init__(self, images: int, side: int = 128) -> None:
        self.images, self.side = images, side

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        label = np.random.default_rng(key.index).integers(0, 19, (self.side, self.side), np.uint8)
        instances = np.array(CITYSCAPES_CLASSES.ids, np.int32)[label] * 1000 + 1
        return {
            "label": torch.from_numpy(label),
            "instances": torch.from_numpy(instances),
            "index": key.index,
        }


def memory_over_images(images: int) -> tuple[float, ...]:
    """Memory in each third of an evaluation of `images` label maps."""
    gauge = Gauge(images)
    labels: Any = RandomLabels(images)
    evaluate(
        PerfectTask(),
        BatchLoader(labels, EvaluationSampler(num_samples=images)),
        SegmentationEvaluator(classes=CITYSCAPES_CLASSES),
        runtime.Runtime(torch.device("cpu")),
        on_batch=lambda *_: gauge(),
    )
    return gauge.thirds


def memory_over_steps(steps: int, *, tensorboard: bool = True) -> tuple[float, ...]:
    """Memory in each third of a training of a tiny network."""
    gauge = Gauge(steps)

    class MeasuredBatches(DataLoaders):
        def train_batches(self, *_: Any, **__: Any) -> Iterator[Batch]:
            while True:
                yield batch
                gauge()

        def eval_batches(self, **_: Any) -> Iterator[Batch]:
            return iter(())

    model = tiny_network()
    batch = random_batch(model, (16, 16), 1)
    every = max(1, steps // 4)
    training = TrainerOptions(
        steps=steps + 1, eval_every=every, save_every=every, ema=0.9, tensorboard=tensorboard
    )
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        Trainer(
            options=training.in_steps(64),
            task=PixelTask(model),
            optimizer=optimization.adamw(model, lr=1e-4),
            schedule=optimization.poly(steps=steps + 1),
            runtime=runtime.Runtime(torch.device("cpu")),
            run=RunFolder(Path(folder)),
            data=MeasuredBatches(train_set=[None] * 64, eval_set=UnreadSplit()),  # type: ignore[arg-type]
        ).fit()
    return gauge.thirds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--steps", type=int, default=2_000)
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        files = linked(Path(folder), options.entries)
        what = f"{options.entries} entries, {options.workers} workers, 2 epochs"
        thirds_of = {
            f"loader, {what}": memory_over_epochs(packed(*files), workers=options.workers),
            f"lists of paths, {what}": memory_over_epochs(ListDataset(*files), workers=options.workers),
        }
    thirds_of[f"evaluation, {options.images} images"] = memory_over_images(options.images)
    thirds_of[f"training, {options.steps} steps"] = memory_over_steps(options.steps)
    rows = [
        [name, *(f"{third:.1f}" for third in thirds), f"{thirds[2] - thirds[1]:+.1f}"]
        for name, thirds in thirds_of.items()
    ]
    print(heading(__file__))
    print(table(["MB", "first third", "second", "last", "growth"], rows))


if __name__ == "__main__":
    main()
